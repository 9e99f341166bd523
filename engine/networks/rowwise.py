"""What a Llama computes row by row between its matrix products: norms, gates, rotary embedding."""

from collections.abc import Callable
from ctypes import CDLL, c_float, c_int64, c_void_p
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from engine.attention.compiled import FORMAT_CODES, KernelUnavailable, load

SOURCE: Final = Path(__file__).with_name("rowwise.c")
NATIVE_DTYPES: Final = (torch.float32, torch.bfloat16)  # compilers convert float16 slowly
Rotary: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # transformers' module


class Norm(NamedTuple):
    """Root mean square normalisation over the last dimension, then a multiplication."""

    weight: Tensor
    epsilon: float


class Rotation(NamedTuple):
    """Cosines and sines of the rotary embedding, in the shapes that `rotate` reads."""

    cosines: Tensor
    sines: Tensor


class Rowwise(Protocol):
    """The operations between a layer's products."""

    def norm(self, norm: Norm, rows: Tensor) -> Tensor:
        """Normalise over the last dimension; same shape."""

    def gate(self, rows: Tensor) -> Tensor:
        """silu(first half) times the second half: (tokens, 2 width) gives (tokens, width)."""

    def rotation(self, rotary: Rotary, hidden: Tensor, positions: Tensor) -> Rotation:
        """The rotation of each row of `hidden`, (tokens, width), at these positions."""

    def rotate(self, rows: Tensor, heads: int, rotation: Rotation) -> Tensor:
        """Rotary embedding (arXiv 2104.09864) of the first `heads` of (tokens, heads, dim).

        Pairs are dim / 2 apart. `rows` may be overwritten.
        """


class TorchRowwise:
    """By torch, several operations each."""

    def norm(self, norm: Norm, rows: Tensor) -> Tensor:
        """Normalise over the last dimension; same shape."""
        return rms_norm(rows, norm.weight.shape, norm.weight, norm.epsilon)

    def gate(self, rows: Tensor) -> Tensor:
        """silu(first half) times the second half: (tokens, 2 width) gives (tokens, width)."""
        gate, up = rows.chunk(2, -1)
        return silu(gate).mul_(up)

    def rotation(self, rotary: Rotary, hidden: Tensor, positions: Tensor) -> Rotation:
        """Cosines (tokens, 1, dim) and sines (tokens, 1, dim / 2)."""
        cosines, sines = rotary(hidden, positions[None])
        return Rotation(cosines[0, :, None], sines[0, :, None].chunk(2, -1)[0])

    def rotate(self, rows: Tensor, heads: int, rotation: Rotation) -> Tensor:
        """Rotary embedding of the first heads: (tokens, heads, dim)."""
        rows = rows[:, :heads]
        rotated = rows * rotation.cosines
        first, second = rows.chunk(2, -1)
        half = first.shape[-1]
        rotated[..., :half].addcmul_(second, rotation.sines, value=-1)
        rotated[..., half:].addcmul_(first, rotation.sines)
        return rotated


class NativeRowwise:
    """By our own C kernels, one pass each. KernelUnavailable if they cannot be compiled.

    Torch's normalisation of a row takes nine operations on a CPU.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        library = load(SOURCE, {"FORMAT": FORMAT_CODES[dtype]})
        pointer, size = c_void_p, c_int64
        self._norm = _declared(library, "rms_norm", pointer, pointer, size, size, c_float, pointer)
        self._gate = _declared(library, "gate", pointer, size, size, pointer)
        self._rotate = _declared(
            library, "rotate", pointer, size, size, size, size, pointer, pointer
        )

    def norm(self, norm: Norm, rows: Tensor) -> Tensor:
        """Normalise over the last dimension; same shape."""
        rows = rows.contiguous()
        out, width = torch.empty_like(rows), rows.shape[-1]
        self._norm(
            rows.data_ptr(), norm.weight.data_ptr(), rows.numel() // width, width, norm.epsilon,
            out.data_ptr(),
        )  # fmt: skip
        return out

    def gate(self, rows: Tensor) -> Tensor:
        """silu(first half) times the second half: (tokens, 2 width) gives (tokens, width)."""
        rows = rows.contiguous()
        count, width = rows.shape[0], rows.shape[1] // 2
        out = rows.new_empty((count, width))
        self._gate(rows.data_ptr(), count, width, out.data_ptr())
        return out

    def rotation(self, rotary: Rotary, hidden: Tensor, positions: Tensor) -> Rotation:
        """Cosines and sines (tokens, dim / 2) each, in float32."""
        cosines, sines = rotary(hidden.new_empty(0, dtype=torch.float32), positions[None])
        half = cosines.shape[-1] // 2
        return Rotation(cosines[0, :, :half].contiguous(), sines[0, :, :half].contiguous())

    def rotate(self, rows: Tensor, heads: int, rotation: Rotation) -> Tensor:
        """Rotary embedding of the first heads, in place: (tokens, heads, dim)."""
        tokens, _, dim = rows.shape
        assert rows.stride()[1:] == (dim, 1)
        self._rotate(
            rows.data_ptr(), rows.stride(0), tokens, heads, dim // 2,
            rotation.cosines.data_ptr(), rotation.sines.data_ptr(),
        )  # fmt: skip
        return rows[:, :heads]


def choose_rowwise(device: torch.device, dtype: torch.dtype) -> Rowwise:
    """The fastest on this device."""
    if device.type == "cpu" and dtype in NATIVE_DTYPES:
        try:
            return NativeRowwise(dtype)
        except KernelUnavailable:
            return TorchRowwise()  # the attention's kernel, compiled alike, logs the reason
    return TorchRowwise()


def _declared(library: CDLL, name: str, *types: Any) -> Callable[..., None]:
    function = library[name]
    function.restype, function.argtypes = None, types
    return function
