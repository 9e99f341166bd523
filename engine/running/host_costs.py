"""What sequences in host memory cost on this machine, measured before the first request."""

from statistics import median
from typing import Final

from engine.offload.sequence import OffloadedSequence
from engine.protocol import HostCost, KvPlacement
from engine.running.offloading import Offloading
from engine.running.runner import Runner
from engine.step.chunks import Chunk, StepPlan
from engine.step.memory import PageCopies
from engine.step.sequence import SequenceState

PLACEMENTS: Final[tuple[KvPlacement, ...]] = ("host-exact", "host-speculative")
SHORT: Final = 8  # the longer of two sequences over the shorter one
STEPS: Final = 3  # of each, whose median counts


def measure_host_costs(
    runner: Runner, offloading: Offloading, tokens: int
) -> dict[KvPlacement, HostCost]:
    """The cost of a decoding sequence of up to `tokens`, where it is served; all pages are free.

    Nothing where the memory holds too few tokens for a difference.
    """
    most = min(tokens, offloading.context_tokens) - STEPS
    if most < SHORT:
        return {}
    runner.probe(0)
    alone_s = median(runner.probe(0) for _ in range(STEPS))
    return {
        placement: host_cost(
            alone_s,
            *(
                (length, _decode_s(runner, offloading, placement, length))
                for length in (most // SHORT, most)
            ),
        )
        for placement in PLACEMENTS
        if placement not in offloading.refusals
    }


def host_cost(alone_s: float, shorter: tuple[int, float], longer: tuple[int, float]) -> HostCost:
    """The cost by steps of two lengths, and of a sequence on the device with next to no tokens.

    Lengths are in tokens, times in seconds. Noise makes no cost negative.
    """
    (few, short_s), (many, long_s) = shorter, longer
    token_s = max(long_s - short_s, 0.0) / (many - few)
    return HostCost(max(short_s - few * token_s - alone_s, 0.0), token_s)


def _decode_s(runner: Runner, offloading: Offloading, placement: KvPlacement, length: int) -> float:
    """Seconds of the model for a token after a prompt of this length."""
    total = length + STEPS
    pages = -(-total // offloading.store.layout.page_tokens)
    sequence = SequenceState(
        "probe",
        0,
        [place % runner.model.vocabulary for place in range(total)],
        length,
        STEPS,
        STEPS,
        STEPS,
        memory=placement,
        pages=list(range(pages)),
        offloaded=OffloadedSequence(placement == "host-speculative"),
    )
    _run(runner, Chunk(sequence, 0, length, True, None))
    times = [_run(runner, Chunk(sequence, at, 1, True, None)) for at in range(length, total)]
    return median(times)


def _run(runner: Runner, chunk: Chunk) -> float:
    step = runner.launch(StepPlan([chunk], [], PageCopies()), 0.0)
    step.result()
    return step.times.model_s
