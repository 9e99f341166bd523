"""The number format in which the model is computed."""

import platform
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self

import torch

from engine.networks.linear import packable
from engine.settings import Dtype

# Instructions that multiply and add a 16-bit format without converting it first. Without them
# oneDNN converts each operand: bfloat16 then takes 2 to 3 times as long as float32 from 8 rows on.
INSTRUCTIONS: Final = {
    torch.bfloat16: ("amx_bf16", "avx512_bf16"),
    torch.float16: ("amx_fp16", "avx512_fp16"),
}
KNOWN_ARCHITECTURES: Final = frozenset({"x86_64", "AMD64"})


class Processor(NamedTuple):
    """What decides how fast a CPU computes a format.

    `instructions` are None on an architecture for which `INSTRUCTIONS` says nothing. `packed`:
    formats that oneDNN computes here; it is less than the processor has where its use is limited.
    """

    instructions: frozenset[str] | None
    packed: frozenset[torch.dtype]

    @classmethod
    def here(cls) -> Self:
        """The processor of this machine."""
        cpu = torch.device("cpu")
        present = None
        if platform.machine() in KNOWN_ARCHITECTURES:
            flags: Mapping[str, Any] = torch.cpu.get_capabilities()
            present = frozenset(name for name, value in flags.items() if value is True)
        return cls(present, frozenset(dtype for dtype in INSTRUCTIONS if packable(cpu, dtype)))

    def instruction(self, dtype: torch.dtype) -> str | None:
        """The instructions that compute a 16-bit format directly; None if there are none."""
        present = self.instructions or frozenset()
        found = (name for name in INSTRUCTIONS[dtype] if name in present)
        return next(found, None) if dtype in self.packed else None


class NumberFormat(NamedTuple):
    """The chosen format, why, and a warning where another one is faster."""

    dtype: torch.dtype
    reason: str
    warning: str | None = None


def choose_format(
    setting: Dtype, stored: torch.dtype, device: torch.device, processor: Processor
) -> NumberFormat:
    """The format to compute a model in whose weights are stored as `stored`.

    By itself the choice is never less precise than the weights. It depends on flags of the
    processor and on no measurement, so that an engine started again gives the same tokens.
    """
    on_cpu = device.type == "cpu"
    if setting != "auto":
        dtype = getattr(torch, setting)
        assert isinstance(dtype, torch.dtype)
        warning = _warning(dtype, stored, processor) if on_cpu else None
        return NumberFormat(dtype, "set by LMAAS_ENGINE_DTYPE", warning)
    if not on_cpu or stored == torch.float32:
        return NumberFormat(stored, "the weights' own format")
    if stored != torch.bfloat16:
        return NumberFormat(torch.float32, f"on a CPU, in place of {_name(stored)}")
    instruction = processor.instruction(stored)
    if instruction is None:
        return NumberFormat(
            torch.float32, "faster here: this processor has no instructions for bfloat16"
        )
    return NumberFormat(stored, f"the weights' own format, fast here by {instruction}")


def _warning(dtype: torch.dtype, stored: torch.dtype, processor: Processor) -> str | None:
    if processor.instructions is None:
        return None
    if dtype in INSTRUCTIONS and processor.instruction(dtype) is None:
        return (
            f"this processor has no instructions for {_name(dtype)}: float32 is several times as "
            "fast; unset LMAAS_ENGINE_DTYPE"
        )
    fast = stored == torch.bfloat16 and processor.instruction(stored) is not None
    if dtype == torch.float32 and fast:
        return (
            "this processor computes bfloat16, the weights' own format, about twice as fast as "
            "float32; unset LMAAS_ENGINE_DTYPE"
        )
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
