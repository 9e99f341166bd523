"""Transfers from host memory to the device."""

import torch
from torch import Tensor


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to the device, without waiting for the device."""
    if device.type == "cuda":
        host = host.pin_memory()  # a copy from pageable memory would block
    return host.to(device, non_blocking=True)


def column(values: list[float] | list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """One value for each row, on the device: (rows, 1)."""
    return to_device(torch.tensor(values, dtype=dtype)[:, None], device)
