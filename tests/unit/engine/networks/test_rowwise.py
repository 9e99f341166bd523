"""The C kernels of a Llama's rowwise operations against torch's."""

import pytest
import torch
from torch import Tensor

from engine.networks.rowwise import (
    NATIVE_DTYPES,
    NativeRowwise,
    Norm,
    TorchRowwise,
    choose_rowwise,
)

DTYPES = pytest.mark.parametrize("dtype", NATIVE_DTYPES)
ROWS = pytest.mark.parametrize("rows", [1, 3, 200])  # 200 rows are shared out to threads
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def close(actual: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


@DTYPES
@ROWS
def test_norm_is_torchs(rows: int, dtype: torch.dtype) -> None:
    norm = Norm(torch.randn(70).to(dtype), 1e-5)
    x = torch.randn(rows, 3, 70).to(dtype)[:, :2]  # not contiguous, like Qwen3's queries
    close(NativeRowwise(dtype).norm(norm, x), TorchRowwise().norm(norm, x))


@DTYPES
@ROWS
def test_gate_is_torchs(rows: int, dtype: torch.dtype) -> None:
    x = 20 * torch.randn(rows, 2 * 90).to(dtype)
    close(NativeRowwise(dtype).gate(x), TorchRowwise().gate(x))


@DTYPES
@ROWS
def test_rotation_is_torchs_and_leaves_the_values_alone(rows: int, dtype: torch.dtype) -> None:
    angles = torch.rand(1, rows, 8) * 6

    def rotary(like: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat((angles, angles), -1)
        return both.cos().to(like.dtype), both.sin().to(like.dtype)

    x, hidden = torch.randn(rows, 5, 16).to(dtype), torch.empty(rows, 80, dtype=dtype)
    kernels, plain = NativeRowwise(dtype), TorchRowwise()
    positions = torch.zeros(rows)
    expected = plain.rotate(x, 4, plain.rotation(rotary, hidden, positions))
    rotated = x.clone()
    actual = kernels.rotate(rotated, 4, kernels.rotation(rotary, hidden, positions))
    close(actual, expected)
    assert torch.equal(rotated[:, 4], x[:, 4])


@DTYPES
def test_row_is_the_same_to_the_bit_in_any_step(dtype: torch.dtype) -> None:
    kernels = NativeRowwise(dtype)
    norm, x = Norm(torch.randn(70).to(dtype), 1e-5), torch.randn(300, 140).to(dtype)
    assert torch.equal(kernels.gate(x)[7:8], kernels.gate(x[7:8]))
    halves = x[:, :70].contiguous()
    assert torch.equal(kernels.norm(norm, halves)[7:8], kernels.norm(norm, halves[7:8]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@DTYPES
def test_what_is_not_finite_stays_so(value: float, dtype: torch.dtype) -> None:
    x = torch.ones(2, 64).to(dtype)
    x[1, 3] = value
    kernels = NativeRowwise(dtype)
    for out in (kernels.norm(Norm(torch.ones(64).to(dtype), 1e-5), x), kernels.gate(x)):
        assert out[0].isfinite().all()
        assert not out[1].isfinite().all()


def test_without_a_compiler_torch_takes_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CC", "")
    monkeypatch.setenv("PATH", "")
    assert isinstance(choose_rowwise(torch.device("cpu"), torch.float32), TorchRowwise)
