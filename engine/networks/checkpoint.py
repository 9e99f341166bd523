"""The tensors of a model folder, read from its safetensors files one by one."""

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"


class IncompleteWeightsError(Exception):
    """A tensor is missing or has another shape than the configuration says."""


class Checkpoint:
    """Tensors by name, mapped into memory. OSError or SafetensorError if a file is unreadable."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        if (folder / SINGLE).is_file():
            names = {SINGLE}
        else:
            names = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        self._device = device
        self._files: dict[str, Any] = {}
        for name in sorted(names):
            file: Any = safe_open(folder / name, framework="pt")
            self._files.update(dict.fromkeys(file.keys(), file))
        self.stored = self._stored()
        self.dtype = self.stored

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor in `dtype` on the device; it may share its memory with the file."""
        if name not in self._files:
            raise IncompleteWeightsError(name)
        tensor: Tensor = self._files[name].get_tensor(name)
        if tensor.shape != shape:
            raise IncompleteWeightsError(name)
        return tensor.to(self._device, self.dtype)

    def _stored(self) -> torch.dtype:
        """The number format of the first tensor."""
        name, file = next(iter(self._files.items()))
        dtype = file.get_tensor(name).dtype
        assert isinstance(dtype, torch.dtype)
        return dtype


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has weights that `Checkpoint` reads."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()
