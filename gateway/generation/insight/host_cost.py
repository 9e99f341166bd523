"""The cost of sequences in host memory: measured at the engine's start, then learned from steps."""

from typing import Final

from engine.protocol import EngineInfo, HostCost, HostWork, Step
from gateway.generation.insight.step_cost import StepCostLearner
from gateway.scheduling.admission.prices import LinearStepTime
from gateway.scheduling.host_lane import HostCosts, HostLane, RowCost
from gateway.scheduling.learned_cost import LearnedCost
from gateway.scheduling.requests import HostPlacement

DECAY: Final = 0.998  # of a step's weight, per later one
MIN_SHARE: Final = 0.01  # of a step's time at `TYPICAL_TOKENS`, where noise hid a cost
TYPICAL_TOKENS: Final = 100
MIN_COST_S: Final = 1e-9


class HostCostLearner:
    """Prices the sequences of a `lane`.

    The time of a step with such sequences is that of its other work, by the cost of steps without
    them, times a factor; and more if it has any, for each of them and for each of their tokens, by
    placement.
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
            prior += _positive(measured.get(place) or HostCost(0.0, 0.0, 0.0))
        self._learned = LearnedCost(prior, decay=DECAY)
        self._lane.costs = None

    def observe(self, step: Step, others: StepCostLearner) -> None:
        """Learn from a step with sequences in host memory, once the cost of others is known."""
        if step.host_work is None or not self._placements:
            return
        device = others.cost
        if device is not None:
            self._learned.observe(_amounts(step.host_work, device.coefficients), step.took_s)

    def price(self) -> None:
        """Let the lane weigh by what was learned so far; the cost of other steps is known."""
        if self._placements:
            self._lane.costs = self._costs()

    def _costs(self) -> HostCosts:
        factor, *costs = self._learned.coefficients
        exact, speculative = RowCost(*costs[:3]), RowCost(*costs[3:])
        learned: dict[HostPlacement, RowCost] = {
            "host-exact": exact,
            "host-speculative": speculative,
        }
        rows = {place: learned[place] for place in self._placements}
        return HostCosts(rows, exact.token_s, max(factor - 1.0, 0.0))


def _positive(cost: HostCost) -> tuple[float, float, float]:
    """The costs, none of which is 0: what is learned are their multiples."""
    whole_s = cost.step_s + cost.row_s + cost.token_s * TYPICAL_TOKENS
    least_s = max(MIN_SHARE * whole_s, MIN_COST_S)
    return (
        max(cost.step_s, least_s),
        max(cost.row_s, least_s),
        max(cost.token_s, least_s / TYPICAL_TOKENS),
    )


def _amounts(work: HostWork, device: LinearStepTime) -> tuple[float, ...]:
    """The work in the order of what is learned."""
    whole = work.work
    others = whole.sequences - work.exact_rows - work.speculative_rows
    others_s = device.seconds(whole.prompt_tokens, others, whole.kv_tokens, whole.prompt_reads)
    return (
        others_s,
        float(work.exact_rows > 0),
        work.exact_rows,
        work.exact_tokens,
        float(work.speculative_rows > 0),
        work.speculative_rows,
        work.speculative_tokens,
    )
