"""Validates names of tenants, apps and keys, and instructions."""

from typing import Final

from gateway.errors import InvalidRequest

MAX_NAME_CHARACTERS: Final = 100
MAX_INSTRUCTION_CHARACTERS: Final = 100_000


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
