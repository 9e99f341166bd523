"""Real English texts on every machine with this project: documentation of its libraries."""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from tokenizers import Tokenizer

MIN_CHARACTERS: Final = 200
SOURCES: Final = {
    "sqlalchemy": ("sqlalchemy.orm.session", "sqlalchemy.sql.selectable", "sqlalchemy.engine.base"),
    "numpy": ("numpy", "numpy.linalg", "numpy.fft", "numpy.random"),
    "torch": ("torch.nn.functional", "torch.optim", "torch.nn"),
}


def text_of_modules(modules: Sequence[str]) -> str:
    """The docstrings of a library's modules, each once, in order."""
    found: dict[str, None] = {}
    for name in modules:
        module = importlib.import_module(name)
        for text in _docstrings(module):
            found.setdefault(text)
    return "\n\n".join(found)


def ids_of(source: str, model: Path, tokens: int) -> list[int]:
    """The first tokens of a text. ValueError if it has fewer."""
    encoder = Tokenizer.from_file(str(model / "tokenizer.json"))
    ids: list[int] = encoder.encode(text_of_modules(SOURCES[source]), add_special_tokens=False).ids
    if len(ids) < tokens:
        raise ValueError(f"{source} has {len(ids)} tokens, {tokens} are needed")
    return ids[:tokens]


def _docstrings(module: ModuleType) -> list[str]:
    members = [value for _, value in inspect.getmembers(module) if callable(value)]
    inner = [
        value
        for member in members
        if inspect.isclass(member)
        for _, value in inspect.getmembers(member, callable)
    ]
    texts = (inspect.getdoc(each) for each in (module, *members, *inner))
    return [text for text in texts if text and len(text) >= MIN_CHARACTERS]
