"""Validates names of tenants, apps and keys, instructions, and what keys allow."""

from collections.abc import Sequence
from typing import Final

from gateway.errors import InvalidRequest, shortened

MAX_NAME_CHARACTERS: Final = 100
MAX_INSTRUCTION_CHARACTERS: Final = 100_000
TIERS: Final = ("default", "flex", "priority")
MAX_DEADLINE_S: Final = 86_400.0


def checked_name(name: str) -> str:
    """`name`, if it is valid. InvalidRequest says what is accepted."""
    if name and len(name) <= MAX_NAME_CHARACTERS and name.isprintable() and name == name.strip():
        return name
    raise InvalidRequest(
        f"name: 1 to {MAX_NAME_CHARACTERS} printable characters, without spaces at either end",
        param="name",
    )


def checked_instruction(instruction: str | None) -> str | None:
    """`instruction`, if it is valid; None for an empty one. InvalidRequest."""
    if not instruction:
        return None
    if len(instruction) > MAX_INSTRUCTION_CHARACTERS or "\0" in instruction:
        raise InvalidRequest(
            f"instruction: at most {MAX_INSTRUCTION_CHARACTERS} characters, none of them NUL",
            param="instruction",
        )
    return instruction


def checked_tiers(tiers: Sequence[str]) -> list[str] | None:
    """The service tiers that a key allows, each once; None for all. InvalidRequest."""
    unknown = [tier for tier in tiers if tier not in TIERS]
    if unknown or not tiers:
        given = f" {shortened(unknown[0])!r} is none of them;" if unknown else ""
        raise InvalidRequest(
            f"service_tiers:{given} accepted is one or more of {', '.join(TIERS)}",
            param="service_tiers",
        )
    allowed = [tier for tier in TIERS if tier in tiers]
    return None if len(allowed) == len(TIERS) else allowed


def checked_deadline(seconds: float) -> float | None:
    """The least deadline that a key allows; None for 0, which is any. InvalidRequest."""
    if 0 <= seconds <= MAX_DEADLINE_S:
        return seconds or None
    raise InvalidRequest(
        f"min_deadline_s is {seconds:g}; accepted is 0 to {MAX_DEADLINE_S:g}",
        param="min_deadline_s",
    )
