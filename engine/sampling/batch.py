"""Sampling of a step, prepared while the previous step still runs."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from engine.sampling.edits import LogitEdits, edits_logits
from engine.sampling.filters import SamplingMethod, TokenSampler, make_sampler, method_of
from engine.sampling.grammar_masks import StepGrammars
from engine.sampling.logprobs import LogprobRequests
from engine.sampling.params import GREEDY, SamplingParams
from engine.sampling.transfer import to_device

GROUP_SCORES: Final = {"cpu": 2**18}  # per group, so that its tensors stay in the cache
MAX_GROUP_SCORES: Final = 2**23  # on other devices: sampling then takes at most about 350 MB


class SamplingGroup(NamedTuple):
    """Rows with the same sampling method."""

    rows: Tensor  # (rows of the group,)
    edits: LogitEdits
    sampler: TokenSampler | None  # None: take the likeliest token


class SamplingBatch(NamedTuple):
    """How the rows of a step are sampled; rows outside all groups take the likeliest token.

    The masks of `grammars` must be filled before.
    """

    rows: int
    grouped: int
    groups: tuple[SamplingGroup, ...]
    logprob_requests: LogprobRequests | None
    grammars: StepGrammars | None = None


def prepare(
    params: Sequence[SamplingParams], vocabulary: int, device: torch.device
) -> SamplingBatch:
    """Prepare sampling one token per row, from scores (rows, vocabulary).

    Runs on the host and does not wait for the device.
    """
    methods: defaultdict[SamplingMethod, list[int]] = defaultdict(list)
    for row, row_params in enumerate(params):
        if row_params is GREEDY:
            continue
        method = method_of(row_params.sampling, vocabulary)
        if method is not SamplingMethod.GREEDY or edits_logits(row_params):
            methods[method].append(row)
    size = max(1, GROUP_SCORES.get(device.type, MAX_GROUP_SCORES) // vocabulary)
    split = [
        (method, rows[start : start + size])
        for method, rows in methods.items()
        for start in range(0, len(rows), size)
    ]
    grammars = StepGrammars.of([row for _, rows in split for row in rows], params, device)
    groups = [
        _group(method, rows, params, vocabulary, device, grammars and grammars.masks_of(rows))
        for method, rows in split
    ]
    return SamplingBatch(
        rows=len(params),
        grouped=sum(map(len, methods.values())),
        groups=tuple(groups),
        logprob_requests=LogprobRequests.of(params, device),
        grammars=grammars,
    )


def _group(
    method: SamplingMethod,
    rows: list[int],
    params: Sequence[SamplingParams],
    vocabulary: int,
    device: torch.device,
    grammar_masks: Tensor | None,
) -> SamplingGroup:
    members = [params[row] for row in rows]
    return SamplingGroup(
        to_device(torch.tensor(rows), device),
        LogitEdits.of(members, vocabulary, device, grammar_masks),
        make_sampler(method, members, vocabulary, device),
    )
