"""Predictions as hints for what stands behind a server, in the forms that are read there."""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, get_args

from engine.protocol import Sequence

Hint: TypeAlias = Literal["priority", "nvext", "llm-d"]
HINTS: Final[tuple[Hint, ...]] = get_args(Hint)
LENGTH_BITS: Final = 32


def hint_fields(
    sequence: Sequence, hints: frozenset[Hint], *, priority: bool, preempt_first: int
) -> dict[str, Any]:
    """Fields of a request's body. `priority`: the server orders by it, the lowest first.

    That is who is preempted last, and with the hint, among those of the same, who is predicted to
    be shorter.
    """
    fields: dict[str, Any] = {}
    if priority:
        value = preempt_first
        if "priority" in hints:
            value = (value << LENGTH_BITS) + sequence.expected
        if value:
            fields["priority"] = value
    if "nvext" in hints and sequence.expected:
        fields["nvext"] = {"agent_hints": {"osl": sequence.expected}}
    return fields


def hint_headers(sequence: Sequence, hints: frozenset[Hint]) -> Mapping[str, str]:
    """Headers of a request: llm-d's flow of a tenant, under its names of either release."""
    if "llm-d" not in hints or not sequence.salt:
        return {}
    return {
        "x-llm-d-inference-fairness-id": sequence.salt,
        "x-gateway-inference-fairness-id": sequence.salt,
    }
