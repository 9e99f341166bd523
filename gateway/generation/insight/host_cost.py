"""The cost of sequences in host memory: measured at the engine's start, then learned from steps."""

from typing import Final

from engine.protocol import EngineInfo, HostWork, Step
from gateway.generation.insight.step_cost import LearnedStepCost, StepCostLearner
from gateway.scheduling.admission.prices import LinearStepTime
from gateway.scheduling.host_lane import HostCosts, HostLane, RowCost
from gateway.scheduling.learned_cost import LearnedCost
from gateway.scheduling.requests import HostPlacement

DECAY: Final = 0.998  # of a step's weight, per later one
MIN_SHARE: Final = 0.01  # of a row's time at `TYPICAL_TOKENS`, where noise hid a cost
TYPICAL_TOKENS: Final = 100
MIN_COST_S: Final = 1e-9


class HostCostLearner:
    """Prices the sequences of a `lane`.

    The time of a step with such sequences is that of the same work on the device, times a factor,
    and more for each row and each token that it has, by placement. The rest of the step is priced
    by the cost of steps without them.
    """

    def __init__(self, lane: HostLane) -> None:
        self._lane = lane
        self._placements: list[HostPlacement] = []
        self._learned = LearnedCost((1.0,), decay=DECAY)

    def opened(self, info: EngineInfo) -> None:
        """A new engine is connected: start from what it has measured."""
        measured = info.host_costs
        places: tuple[HostPlacement, ...] = ("host-exact", "host-speculative")
        self._placements = [place for place in places if place in measured]
        prior = [1.0]
        for place in places:
            cost = measured.get(place)
            prior += _positive(cost.row_s, cost.token_s) if cost else (MIN_COST_S, MIN_COST_S)
        self._learned = LearnedCost(prior, decay=DECAY)
        self._lane.costs = None

    def observe(self, step: Step, others: StepCostLearner) -> None:
        """Learn from a step with sequences in host memory, once the cost of others is known."""
        if step.host_work is None or not self._placements:
            return
        device = others.cost
        if device is not None:
            self._learned.observe(_amounts(step.host_work, device.coefficients), step.took_s)

    def price(self, device: LearnedStepCost) -> None:
        """Let the lane weigh by what was learned so far."""
        if self._placements:
            self._lane.costs = self._costs(device.coefficients)

    def _costs(self, device: LinearStepTime) -> HostCosts:
        factor, exact_row, exact_token, part_row, part_token = self._learned.coefficients
        learned: dict[HostPlacement, tuple[float, float]] = {
            "host-exact": (exact_row, exact_token),
            "host-speculative": (part_row, part_token),
        }
        own_s = factor * device.sequence_s  # of a row wherever its keys and values are
        rows = {
            place: RowCost(own_s + learned[place][0], learned[place][1])
            for place in self._placements
        }
        return HostCosts(rows, exact_token, max(factor - 1.0, 0.0))


def _positive(row_s: float, token_s: float) -> tuple[float, float]:
    """The costs, neither of which is 0: what is learned are their multiples."""
    least_s = max(MIN_SHARE * (row_s + token_s * TYPICAL_TOKENS), MIN_COST_S)
    return max(row_s, least_s), max(token_s, least_s / TYPICAL_TOKENS)


def _amounts(work: HostWork, device: LinearStepTime) -> tuple[float, ...]:
    """The work in the order of what is learned."""
    whole = work.work
    same_s = device.seconds(
        whole.prompt_tokens, whole.sequences, whole.kv_tokens, whole.prompt_reads
    )
    return (
        same_s,
        work.exact_rows,
        work.exact_tokens,
        work.speculative_rows,
        work.speculative_tokens,
    )
