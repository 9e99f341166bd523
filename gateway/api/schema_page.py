"""`GET /schema`: the routes as a page that loads nothing else; OpenAPI itself as JSON and YAML."""

import json
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin, YamlRenderPlugin

HEAD: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font-family: sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
pre {{ overflow-x: auto; background: #f4f4f4; padding: 0.5em }}
</style></head><body>
<h1>{title} {version}</h1>
<p>OpenAPI: <a href="/schema/openapi.json">JSON</a>, <a href="/schema/openapi.yaml">YAML</a></p>
"""
FOOT: Final = "</body></html>\n"


class SchemaPage(OpenAPIRenderPlugin):
    """Routes and schemas as plain HTML, without scripts, fonts or pictures from elsewhere."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page."""
        del request
        info = openapi_schema["info"]
        head = HEAD.format(title=escape(info["title"]), version=escape(info["version"]))
        return "".join([head, *_sections(openapi_schema), FOOT]).encode()


def schema_plugins() -> Sequence[OpenAPIRenderPlugin]:
    """What is served below `/schema`."""
    return (SchemaPage(), JsonRenderPlugin(), YamlRenderPlugin())


def _sections(schema: dict[str, Any]) -> Iterator[str]:
    yield "<h2>Routes</h2>\n"
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            summary = escape(operation.get("summary") or "")
            yield _details(f"<b>{method.upper()} {escape(path)}</b> {summary}", operation)
    yield "<h2>Schemas</h2>\n"
    for name, definition in schema.get("components", {}).get("schemas", {}).items():
        yield _details(f"<b>{escape(name)}</b>", definition)


def _details(summary: str, content: dict[str, Any]) -> str:
    text = escape(json.dumps(msgspec.to_builtins(content), indent=2, ensure_ascii=False))
    return f"<details><summary>{summary}</summary><pre>{text}</pre></details>\n"
