"""Matrix products with fixed weights."""

from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

PACKING_ROWS: Final = 128  # rows; oneDNN's layout for this number suits all others except 1


class Linear(Protocol):
    """y = x Wᵀ + b, also fused with an addition."""

    def __call__(self, rows: Tensor) -> Tensor:
        """(rows, inputs) gives (rows, outputs)."""

    def add(self, rows: Tensor, addend: Tensor) -> Tensor:
        """The product plus `addend`, (rows, outputs)."""


class DenseLinear:
    """Weights in their original layout, (outputs, inputs)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """(rows, inputs) gives (rows, outputs)."""
        return linear(rows, self._weight, self._bias)

    def add(self, rows: Tensor, addend: Tensor) -> Tensor:
        """The product plus `addend`, (rows, outputs)."""
        return linear(rows, self._weight, self._bias).add_(addend)


class PackedLinear:
    """Weights in the block layout that oneDNN's kernels read, so that no call reorders them."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACKING_ROWS)  # noqa: SLF001
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """(rows, inputs) gives (rows, outputs)."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            rows, self._weight, self._bias, "none", [], ""
        )
        return product

    def add(self, rows: Tensor, addend: Tensor) -> Tensor:
        """The product plus `addend`, (rows, outputs)."""
        total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(  # noqa: SLF001
            rows, addend, self._weight, self._bias, "add"
        )
        return total


def fixed_linear(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """The fastest product with these weights on their device; packed weights are a copy."""
    return (
        PackedLinear(weight, bias)
        if packable(weight.device, weight.dtype)
        else DenseLinear(weight, bias)
    )


def packable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN supports this number format on this device."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.float32:
        return True
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    return dtype == torch.float16 and bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())  # noqa: SLF001
