"""The JSON Schema Test Suite: which schemas compile, and which instances are judged right.

The suite is a folder with one for each draft, as `tests` in json-schema-org's repository or in the
npm package json-schema-test-suite. Its optional parts, and schemas that are no objects, are left
out.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct
from tokenizers import Tokenizer

from engine.errors import GrammarRefused
from engine.grammar.compiler import Compiler
from gateway.generation.grammar.schemas import json_grammar

DRAFTS: Final = {  # folder, and the `$schema` by which a schema of the suite is read
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}


class Instance(Struct):
    """A value, and whether the schema describes it."""

    data: Any
    valid: bool


class Case(Struct):
    """A schema and its instances."""

    schema: Any
    tests: list[Instance]


class Coverage(Struct):
    """What became of a draft's schemas and instances. `refused`: reasons, by how many schemas."""

    schemas: int = 0
    compiled: int = 0
    valid: int = 0
    accepted: int = 0  # of the valid ones of compiled schemas
    invalid: int = 0
    rejected: int = 0
    refused: dict[str, int] = {}

    @property
    def safe(self) -> float:
        """Share of the invalid instances that are refused."""
        return self.rejected / max(1, self.invalid)

    def row(self, draft: str) -> dict[str, object]:
        """Its row in the table."""
        return {
            "draft": draft,
            "schemas": self.schemas,
            "compiled": self.compiled / max(1, self.schemas),
            "valid instances": self.valid,
            "accepted": self.accepted / max(1, self.valid),
            "invalid instances": self.invalid,
            "refused": self.safe,
            "reasons": self.refused,
        }


def drafts_in(folder: Path) -> list[str]:
    """The drafts of a suite that are judged."""
    return [draft for draft in DRAFTS if (folder / draft).is_dir()]


def coverage(folder: Path, draft: str, compiler: Compiler, tokenizer: Tokenizer) -> Coverage:
    """Of the schemas of a draft and their instances, each as `json.dumps` writes it."""
    found = Coverage(refused={})
    for case in _cases(folder):
        if not isinstance(case.schema, dict):
            continue
        found.schemas += 1
        schema = {"$schema": DRAFTS[draft], **case.schema}
        try:
            compiled = compiler.compile(json_grammar(schema))
        except GrammarRefused as error:
            reason = str(error)[:60]
            found.refused[reason] = found.refused.get(reason, 0) + 1
            continue
        found.compiled += 1
        for each in case.tests:
            matcher = compiled.matcher.deep_copy()
            text = json.dumps(each.data, ensure_ascii=False)
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            taken = matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
            if each.valid:
                found.valid += 1
                found.accepted += taken
            else:
                found.invalid += 1
                found.rejected += not taken
    return found


def _cases(folder: Path) -> Iterator[Case]:
    for file in sorted(folder.glob("*.json")):
        yield from msgspec.json.decode(file.read_bytes(), type=list[Case])
