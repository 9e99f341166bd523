"""All that a step's drawing needs, made while the step before it still computes."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from engine.sampling.choice import Choice, Way, choice, way
from engine.sampling.draw import GREEDY, Draw
from engine.sampling.edits import Edits, edited
from engine.sampling.logprobs import Wanted
from engine.sampling.transfer import to_device

SCORES: Final = {"cpu": 2**18}  # of one group, so that what is made of them stays in the cache
MOST_SCORES: Final = 2**23  # elsewhere, so that drawing takes at most some 350 MB


class Group(NamedTuple):
    """Rows that are drawn the same way."""

    rows: Tensor  # (rows of the group,)
    edits: Edits
    choice: Choice | None  # None: the likeliest token


class Batch(NamedTuple):
    """How the rows of a step are drawn; rows in no group take the likeliest token."""

    rows: int
    grouped: int
    groups: tuple[Group, ...]
    wanted: Wanted | None


def prepare(draws: Sequence[Draw], vocabulary: int, device: torch.device) -> Batch:
    """How one token is drawn for each of these rows, from as many scores as the vocabulary.

    Runs on the host and does not wait for the device.
    """
    ways: defaultdict[Way, list[int]] = defaultdict(list)
    for row, draw in enumerate(draws):
        if draw is GREEDY:
            continue
        kind = way(draw.sampling, vocabulary)
        if kind is not Way.LIKELIEST or edited(draw):
            ways[kind].append(row)
    size = max(1, SCORES.get(device.type, MOST_SCORES) // vocabulary)
    groups = [
        _group(kind, rows[start : start + size], draws, vocabulary, device)
        for kind, rows in ways.items()
        for start in range(0, len(rows), size)
    ]
    grouped = sum(map(len, ways.values()))
    return Batch(len(draws), grouped, tuple(groups), Wanted.of(draws, device))


def _group(
    kind: Way, rows: list[int], draws: Sequence[Draw], vocabulary: int, device: torch.device
) -> Group:
    members = [draws[row] for row in rows]
    return Group(
        to_device(torch.tensor(rows), device),
        Edits.of(members, vocabulary, device),
        choice(kind, members, vocabulary, device),
    )
