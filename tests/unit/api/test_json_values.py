"""JSON values are counted without decoding them."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.json_values import PIECE, count_values

TEXT = st.text(st.sampled_from('",:[]{}\\ab\u2028é'), max_size=12)
LEAVES = st.none() | st.booleans() | st.integers() | TEXT
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=4)
        | st.dictionaries(TEXT, inner, min_size=1, max_size=4)
    ),
)
MEGABYTE = 1_000_000
WORST = {
    "lists": b"[" + b"[]," * (MEGABYTE // 3),
    "texts": b"[" + b'"",' * (MEGABYTE // 3),
    "escaped quotes": b'["' + rb"\"" * (MEGABYTE // 2) + b'"]',
    "escaped backslashes": b'["' + rb"\\" * (MEGABYTE // 2) + b'",",,"]',
    "texts of an escaped quote": b"[" + rb'"\"",' * (MEGABYTE // 5),
    "one backslash run": b"\\" * MEGABYTE,
    "commas in a text": b'["' + b",:" * (MEGABYTE // 2) + b'"]',
}


def keys_and_values(value: Any) -> int:
    if isinstance(value, list):
        return 1 + sum(map(keys_and_values, value))
    if isinstance(value, dict):
        return 1 + sum(1 + keys_and_values(item) for item in value.values())
    return 1


@given(VALUES)
async def test_count_is_what_decoding_finds(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert await count_values(text.encode(), enough=0) == keys_and_values(value)


@given(st.integers(0, 40), TEXT)
async def test_text_across_a_cut_is_counted_as_one(offset: int, text: str) -> None:
    body = json.dumps(["x" * (PIECE - offset), text, text]).encode()
    assert await count_values(body, enough=0) == 4


async def test_short_way_never_counts_less_than_there_are() -> None:
    body = json.dumps({"a": [1, "b,c"]}).encode()
    assert await count_values(body, enough=0) == 5
    assert await count_values(body, enough=100) >= 5


@pytest.mark.parametrize("body", WORST.values(), ids=WORST)
async def test_megabyte_takes_milliseconds_whatever_it_holds(body: bytes) -> None:
    """Measured: 3 to 5 ms. The bound leaves room for slower machines."""
    took_s = []
    for _ in range(5):
        started = time.process_time()
        await count_values(body, enough=0)
        took_s.append(time.process_time() - started)
    assert min(took_s) < 0.03
