"""Checks memory: the weights and the KV memory against what this process may use."""

from typing import Final

from msgspec import Struct

from gateway.diagnosis.finding import Finding, failure, ok, warning

TIGHT_SHARE: Final = 0.8  # of the memory that is there; the gateway and Postgres need some too
MIN_KV_TOKENS: Final = 2048


class MemoryNeeds(Struct, frozen=True):
    """Bytes that are available, of the weights and of a token's KV; the tokens of both KV pools.

    `gpu_free` is the free memory of the engine's GPU; None on a CPU.
    """

    available: int
    weights: int
    kv_token: int
    kv_tokens: int
    host_kv_tokens: int
    gpu_free: int | None = None


def check_memory(needs: MemoryNeeds) -> Finding:
    """Whether the engine would fit."""
    available = needs.available
    there, kind = available, "memory"
    if needs.gpu_free is not None:
        there, kind = needs.gpu_free, "GPU memory"
    kv = needs.kv_tokens * needs.kv_token
    total = needs.weights + kv
    message = (
        f"weights {_size(needs.weights)} and {needs.kv_tokens:,} KV tokens {_size(kv)}, "
        f"of {_size(there)} of {kind} available"
    )
    if total <= TIGHT_SHARE * there:
        host_free = available if needs.gpu_free is not None else available - total
        return _check_host(needs, host_free, message)
    fitting = int((TIGHT_SHARE * there - needs.weights) // needs.kv_token)
    remedy = (
        f"set LMAAS_KV_TOKENS to {fitting} or less, or free memory"
        if fitting >= MIN_KV_TOKENS
        else "free memory, or set LMAAS_MODEL to a smaller model"
    )
    if total > there:
        return failure("memory", message, remedy)
    return warning("memory", message, remedy)


def _check_host(needs: MemoryNeeds, free: int, message: str) -> Finding:
    """Whether the KV of preempted requests fits what the engine leaves free on the host."""
    host = needs.host_kv_tokens * needs.kv_token
    if host <= free:
        return ok("memory", message)
    return warning(
        "memory",
        f"{message}; the KV of preempted requests may take {_size(host)} more",
        f"set LMAAS_HOST_KV_TOKENS to {free // needs.kv_token // 2} or less",
    )


def _size(count: float) -> str:
    unit, name = (1 << 30, "GiB") if count >= 1 << 30 else (1 << 20, "MiB")
    return f"{count / unit:.3g} {name}"
