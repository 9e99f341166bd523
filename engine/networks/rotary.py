"""The rotary embedding (arXiv 2104.09864) with static frequencies."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.networks.shape import rope_settings


class Rotary(NamedTuple):
    """Frequencies, (dim / 2,) float32, and the factor of sines and cosines."""

    frequencies: Tensor
    scaling: float = 1.0

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines (tokens, 1, dim) and sines (tokens, 1, dim / 2) at these positions."""
        angles = positions[:, None].float() * self.frequencies
        cosines = (angles.cos() * self.scaling).to(dtype)
        sines = (angles.sin() * self.scaling).to(dtype)
        return torch.cat((cosines, cosines), -1)[:, None], sines[:, None]


def read_rotary(config: Mapping[str, Any], dim: int) -> Rotary | None:
    """The rotary embedding of a `config.json`; None for a type that is not computed here."""
    rope = rope_settings(config)
    frequencies = 1.0 / (rope["rope_theta"] ** (torch.arange(0, dim, 2).float() / dim))
    try:
        match rope["rope_type"]:
            case "default":
                return Rotary(frequencies)
            case "linear":
                return Rotary(frequencies / rope["factor"])
            case "llama3":
                return Rotary(_llama3(frequencies, rope))
    except KeyError:  # a setting is missing
        return None
    return None


def _llama3(frequencies: Tensor, rope: Mapping[str, Any]) -> Tensor:
    """Frequencies of Llama 3: low ones divided by `factor`, high ones kept, a ramp between."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    context = rope["original_max_position_embeddings"]
    turns = context * frequencies / (2 * math.pi)  # in the original context
    kept: Tensor = ((turns - low) / (high - low)).clamp(0, 1)
    factor: float = rope["factor"]
    return (1 - kept) * frequencies / factor + kept * frequencies
