"""Answers of other forms to the same texts: what a request for one of them has in addition."""

from typing import Any, Final

from benchmarks.own_lengths.lengths_file import Kind

SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "answer": {"type": "string", "maxLength": 300},
        "certain": {"type": "boolean"},
    },
    "required": ["answer", "certain"],
    "additionalProperties": False,
}
TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "file_away",
        "description": "Files the user's text under a title",
        "parameters": {
            "type": "object",
            "properties": {
                "title": {"type": "string", "maxLength": 80},
                "kind": {"type": "string", "enum": ["question", "code", "text", "other"]},
            },
            "required": ["title", "kind"],
            "additionalProperties": False,
        },
    },
}
FIELDS: Final[dict[Kind, dict[str, Any]]] = {
    "json": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        }
    },
    "tool": {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
    "offered": {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
}
"""The fields of a request, by the kind of its answer; `offered`: the model may call, or not."""
