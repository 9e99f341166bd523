"""The job: a file of many short lines, and what its output and history have of each."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Final

import psycopg
from msgspec import Struct

from engine.demo.lexicon import VELAN
from gateway.cli.batch.client import BatchClient
from gateway.generation.text.tokenizer import ChatTokenizer

MODEL: Final = "lmaas-demo"
ENDPOINT: Final = "/v1/chat/completions"
INSTRUCTIONS: Final = ("Translate into Velan, word by word.", "Spell out every word.")
WORDS: Final = (1, 8)  # of a line, uniform
MAX_PROMPT: Final = 40  # tokens
MAX_ANSWER: Final = 8
RECORDS: Final = "SELECT count(*), count(DISTINCT id) FROM requests WHERE service_tier = 'batch'"


class Kept(Struct, frozen=True):
    """What was kept of a job: lines without an answer, and answers and records beyond one."""

    lost: int
    doubled: int
    unrecorded: int
    recorded_again: int


def write_lines(path: Path, lines: int, model_folder: Path) -> None:
    """Write the job's file. AssertionError if a prompt is too long."""
    tokenizer, rng = ChatTokenizer(model_folder), Random(lines)
    words = list(VELAN)
    longest = 0
    with path.open("w") as file:
        for number in range(lines):
            content = " ".join(rng.choices(words, k=rng.randint(*WORDS)))
            messages = [
                {"role": "system", "content": INSTRUCTIONS[number % 2]},
                {"role": "user", "content": content},
            ]
            body = {"model": MODEL, "messages": messages, "max_tokens": 1 + number % MAX_ANSWER}
            line = {"custom_id": str(number), "method": "POST", "url": ENDPOINT, "body": body}
            file.write(json.dumps(line) + "\n")
            if number < 1_000:  # noqa: PLR2004  a sample
                longest = max(longest, len(tokenizer.encode_chat(messages)))
    assert longest <= MAX_PROMPT, f"a prompt has {longest} tokens"


def submit(url: str, key: str, path: Path) -> str:
    """Upload the file and create its batch; returns the batch's id."""
    with closing(BatchClient(url, key)) as client:
        created = client.create(client.upload(path), ENDPOINT, "24h", {})
    return str(created["id"])


def kept_of(url: str, key: str, output_file: str, database_url: str, lines: int) -> Kept:
    """Compare the output file and the records with the lines."""
    with closing(BatchClient(url, key)) as client, client.content(output_file) as pieces:
        named = Counter(json.loads(line)["custom_id"] for line in _lines(pieces))
    with psycopg.connect(database_url) as connection:
        row = connection.execute(RECORDS).fetchone()
    assert row is not None
    records, distinct = row
    return Kept(
        lost=sum(str(number) not in named for number in range(lines)),
        doubled=named.total() - len(named),
        unrecorded=max(lines - distinct, 0),
        recorded_again=max(records - lines, 0),
    )


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a text in pieces."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest
