"""What tenants, apps and keys may be called, and what an instruction may hold."""

from typing import Final

from gateway.errors import InvalidRequest

NAME_CHARACTERS: Final = 100
INSTRUCTION_CHARACTERS: Final = 100_000


def checked_name(name: str) -> str:
    """`name`, if it can be one. InvalidRequest says what is accepted."""
    if name and len(name) <= NAME_CHARACTERS and name.isprintable() and name == name.strip():
        return name
    raise InvalidRequest(
        f"name: 1 to {NAME_CHARACTERS} printable characters, without spaces at either end",
        param="name",
    )


def checked_instruction(instruction: str | None) -> str | None:
    """`instruction`, if it can be stored. An empty one is none."""
    if not instruction:
        return None
    if len(instruction) > INSTRUCTION_CHARACTERS or "\0" in instruction:
        raise InvalidRequest(
            f"instruction: at most {INSTRUCTION_CHARACTERS} characters, none of them NUL",
            param="instruction",
        )
    return instruction
