"""The rotations of a model's keys: computed once from a sample text, then read from a file."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.attention.chunk import attend_context
from engine.offload.selection import skew_of

SAMPLE_TOKENS: Final = 2048  # as in the paper

log = structlog.get_logger()


class SampleAttention:
    """Causal attention of one prompt; computes the skew of each layer on the way."""

    def __init__(self) -> None:
        self.skew: list[Tensor] = []

    def attend(
        self,
        plan: None,  # noqa: ARG002 - an attention's signature
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Attend (tokens, heads, dim) causally, without windows; same shape."""
        assert window is None
        assert layer == len(self.skew)
        self.skew.append(skew_of(query, key.shape[1]))
        return attend_context(query, key.transpose(0, 1), value.transpose(0, 1), None, scale)


def compute_skew(compute: Callable[[SampleAttention], Any]) -> Tensor:
    """The skew of the model that `compute` runs on a sample text, as `load_skew` returns it."""
    sample = SampleAttention()
    compute(sample)
    return torch.stack(sample.skew).cpu()


def load_skew(
    folder: Path, fingerprint: bytes, compute: Callable[[SampleAttention], Any]
) -> Tensor:
    """The skew of the model of this fingerprint, (layers, kv_heads, dim, dim) in float32.

    Without a file in the folder, `compute` runs the model on a sample text, and the file is
    written; where that fails, it is computed at each start.
    """
    file = folder / f"{hashlib.sha256(fingerprint).hexdigest()[:32]}.safetensors"
    try:
        return load_file(file)["skew"]
    except (OSError, SafetensorError, KeyError) as reason:
        log.info("skew_computed", file=str(file), reason=str(reason))
    skew = compute_skew(compute)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        written = file.with_suffix(".new")
        save_file({"skew": skew}, written)
        written.replace(file)
    except (OSError, SafetensorError) as error:
        log.warning("skew_not_stored", file=str(file), reason=str(error))
    return skew
