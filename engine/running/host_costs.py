"""What sequences in host memory cost on this machine, measured before the first request."""

from statistics import median
from typing import Final

from engine.offload.sequence import OffloadedSequence
from engine.protocol import HOST_PLACEMENTS, HostCost, KvPlacement
from engine.running.offloading import Offloading
from engine.running.runner import Runner
from engine.step.chunks import Chunk, StepPlan
from engine.step.memory import PageCopies
from engine.step.sequence import SequenceState

# A fetch of fewer is over while the layer before is computed, and would look free.
PROBE_TOKENS: Final = {"cpu": 512, "cuda": 4_096}
SHORT: Final = 8  # the longer of two lengths over the shorter one
ROWS: Final = 4  # sequences in the step that has several
STEPS: Final = 5  # of each kind, whose median counts


def measure_host_costs(
    runner: Runner, offloading: Offloading, step_tokens: int
) -> dict[KvPlacement, HostCost]:
    """The cost of decoding sequences, where it is served; all pages are free.

    The longest has `PROBE_TOKENS`, or as many as a step computes if that is less. Nothing where
    the memory holds too few tokens for a difference.
    """
    probe = min(PROBE_TOKENS[runner.model.device.type], step_tokens)
    most = min(probe, runner.model.context_tokens, offloading.context_tokens) - STEPS
    few = most // SHORT
    pages = -(-(few + STEPS) // offloading.store.layout.page_tokens)
    if few < 1 or ROWS * pages > offloading.store.pages:
        return {}
    runner.probe(0)
    alone_s = median(runner.probe(0) for _ in range(STEPS))
    costs: dict[KvPlacement, HostCost] = {}
    for placement in HOST_PLACEMENTS:
        if placement not in offloading.refusals:
            one_s, longer_s, several_s = (
                _decode_s(runner, offloading, placement, length, rows)
                for length, rows in ((few, 1), (most, 1), (few, ROWS))
            )
            costs[placement] = host_cost(alone_s, (few, one_s), (most, longer_s), several_s)
    return costs


def host_cost(
    alone_s: float, one: tuple[int, float], longer: tuple[int, float], several_s: float
) -> HostCost:
    """The cost by three steps, and by one of a sequence on the device with next to no tokens.

    One has a sequence of few tokens, one a longer one, and one `ROWS` with few tokens each. Lengths
    are in tokens, times in seconds. Noise makes no cost negative.
    """
    (few, one_s), (many, long_s) = one, longer
    token_s = max(long_s - one_s, 0.0) / (many - few)
    each_s = max(several_s - one_s, 0.0) / (ROWS - 1)
    row_s = max(each_s - few * token_s, 0.0)
    return HostCost(max(one_s - alone_s - each_s, 0.0), row_s, token_s)


def _decode_s(
    runner: Runner, offloading: Offloading, placement: KvPlacement, length: int, rows: int
) -> float:
    """Seconds of the model for a token of each of `rows` sequences with prompts of this length."""
    total = length + STEPS
    pages = -(-total // offloading.store.layout.page_tokens)
    sequences = [
        SequenceState(
            f"probe {row}",
            row,
            [place % runner.model.vocabulary for place in range(row, row + total)],
            length,
            STEPS,
            STEPS,
            STEPS,
            memory=placement,
            pages=list(range(row * pages, (row + 1) * pages)),
            offloaded=OffloadedSequence(placement == "host-speculative"),
        )
        for row in range(rows)
    ]
    for sequence in sequences:
        _run(runner, [Chunk(sequence, 0, length, True, None)])
    return median(
        _run(runner, [Chunk(sequence, at, 1, True, None) for sequence in sequences])
        for at in range(length, total)
    )


def _run(runner: Runner, chunks: list[Chunk]) -> float:
    step = runner.launch(StepPlan(chunks, [], PageCopies()), 0.0)
    step.result()
    return step.times.model_s
