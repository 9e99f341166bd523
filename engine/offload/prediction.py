"""The attention that the tokens of several sequences will get, predicted from codes of their keys.

By torch, or on a CPU by our own C kernel: torch would write and read the decoded keys several
times, 8 times as many bytes as their codes have.
"""

from collections.abc import Callable
from ctypes import c_int64, c_void_p
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import structlog
import torch
from torch import Tensor

from engine.attention.compiled import KernelUnavailable, load
from engine.offload.selection import group_attention, predicted_scores

SOURCE: Final = Path(__file__).with_name("predict.c")
BEYOND: Final = -1.0  # less than any attention

log = structlog.get_logger()


class CodedKeys(NamedTuple):
    """The coded keys of n sequences in a layer.

    `codes` are (rows, dim / 2) of a layer, `places`, (n, kv_heads, tokens), its rows, of which each
    sequence has the first `lengths`, (n,); `step`, (n, kv_heads, dim), that of the codes.
    """

    codes: Tensor
    places: Tensor
    lengths: Tensor
    step: Tensor


# Of queries (n, kv_heads, group, dim): (n, kv_heads, tokens), `BEYOND` after a sequence's tokens.
PredictAttention: TypeAlias = Callable[[CodedKeys, Tensor], Tensor]


def choose_prediction(
    device: torch.device, heads: int, kv_heads: int, dim: int
) -> PredictAttention:
    """The fastest one for this device and model."""
    if device.type == "cpu":
        try:
            return NativePrediction(heads // kv_heads, dim).predict
        except KernelUnavailable as reason:
            log.warning("kernel_unavailable", kernel=SOURCE.name, reason=str(reason))
    return predict_attention


def predict_attention(keys: CodedKeys, query: Tensor) -> Tensor:
    """By torch."""
    places = keys.places
    found = keys.codes.index_select(0, places.reshape(-1)).view(*places.shape, -1)
    scores = predicted_scores(query, found, keys.step, query.shape[-1] ** -0.5)
    tokens = torch.arange(places.shape[2], device=places.device)
    beyond = tokens >= keys.lengths[:, None, None]
    scores.masked_fill_(beyond[:, None], -torch.inf)
    return group_attention(scores).masked_fill_(beyond, BEYOND)


class NativePrediction:
    """By a C kernel for one model's heads. KernelUnavailable if it cannot be compiled."""

    def __init__(self, group: int, dim: int) -> None:
        library = load(SOURCE, {"DIM": dim, "GROUP": group})
        self._predict = library.predict
        self._predict.restype = None
        self._predict.argtypes = [*[c_void_p] * 4, *[c_int64] * 3, *[c_void_p] * 2]

    def predict(self, keys: CodedKeys, query: Tensor) -> Tensor:
        """As `predict_attention`."""
        sequences, kv_heads, tokens = keys.places.shape
        weights = query.float() * (keys.step * query.shape[-1] ** -0.5).unsqueeze(-2)
        weights = weights.contiguous()
        scores = torch.empty((sequences, kv_heads, query.shape[2], tokens))
        out = torch.empty((sequences, kv_heads, tokens))
        self._predict(
            keys.codes.data_ptr(), keys.places.data_ptr(), keys.lengths.data_ptr(),
            weights.data_ptr(), sequences, kv_heads, tokens, scores.data_ptr(), out.data_ptr(),
        )  # fmt: skip
        return out
