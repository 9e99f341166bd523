"""What a client's script shares: the gateway's address, and a line of JSON for each feature tried.

Runs in the client's own environment, which has neither the gateway nor its dependencies.
"""

import asyncio
import inspect
import json
import os
import traceback
from collections.abc import Callable
from typing import Any

URL = os.environ["LMAAS_URL"]
KEY = os.environ["LMAAS_KEY"]
MODEL = os.environ["LMAAS_SERVED_MODEL"]
TOKENIZER = os.environ["LMAAS_TOKENIZER"]  # a folder with the served model's tokenizer

QUESTION = "Say in one sentence what a lighthouse is for."
PERSON = "Ada Lovelace was 36 years old."
WEATHER = "What is the weather in Oslo? Use the tool."
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}

_features: dict[str, Callable[[], Any]] = {}


def feature(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function that tries a feature: it raises what goes wrong."""

    def register(function: Callable[[], Any]) -> Callable[[], Any]:
        _features[name] = function
        return function

    return register


def run() -> None:
    """Try every feature, and print a line for each: its name, whether it works, and why not."""
    for name, function in _features.items():
        try:
            result = function()
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".strip()
            print(json.dumps({"feature": name, "works": False, "reason": reason}), flush=True)
        else:
            print(json.dumps({"feature": name, "works": True}), flush=True)
