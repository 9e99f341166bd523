"""The cost of the engine's steps, learned while it serves."""

from typing import Final

from msgspec import Struct, structs

from engine.protocol import Step, StepWork
from gateway.scheduling.admission.prices import LinearStepTime
from gateway.scheduling.learned_cost import LearnedCost

MIN_STEPS: Final = 200  # fewer say little about an engine


# Of no particular engine; what is learned has this order.
PRIOR: Final = structs.astuple(LinearStepTime(1e-2, 1e-4, 1e-3, 1e-6, 1e-7))
RECENT_DECAY: Final = 0.99  # of a step's weight in recent times, per later step
PRIOR_STEPS: Final = 0.1  # weight of the prior's proportions, in steps, against noise


class LearnedStepCost(Struct, frozen=True):
    """The cost of `steps` steps. `error` is the mean relative error of their modelled times."""

    coefficients: LinearStepTime
    steps: int
    error: float


class StepCostLearner:
    """Learns from every step that an engine reports the work of.

    Coefficients minimise relative errors, which noise makes too low in the sum; so they are scaled
    to the total time of all steps.
    """

    def __init__(self) -> None:
        self._learned = LearnedCost(PRIOR, decay=1.0, lasting_weight=PRIOR_STEPS)
        self._steps = 0
        self._total_amounts = [0.0] * len(PRIOR)
        self._total_s = 0.0
        self._total_error = 0.0
        self._recent_amounts = [0.0] * len(PRIOR)
        self._recent_s = 0.0

    def observe(self, step: Step) -> None:
        """Learn from a step."""
        if step.work is None:
            return
        amounts = _amounts(step.work, step.steps)
        estimate_s = self._learned.estimate(amounts)
        counted_s = self._learned.observe(amounts, step.took_s)
        if counted_s is None:
            return
        self._recent_s = RECENT_DECAY * self._recent_s + counted_s
        self._recent_amounts = [
            RECENT_DECAY * a + b for a, b in zip(self._recent_amounts, amounts, strict=True)
        ]
        self._steps += step.steps
        self._total_s += counted_s
        self._total_error += abs(estimate_s / counted_s - 1)
        self._total_amounts = [a + b for a, b in zip(self._total_amounts, amounts, strict=True)]

    @property
    def recent(self) -> LinearStepTime | None:
        """The cost, scaled to the time of recent steps; None before `MIN_STEPS` steps.

        The speed of a machine with other work varies.
        """
        if self._learned.outcomes < MIN_STEPS:
            return None
        scale = self._recent_s / self._learned.estimate(self._recent_amounts)
        return LinearStepTime(*(scale * each for each in self._learned.coefficients))

    @property
    def cost(self) -> LearnedStepCost | None:
        """What was learned; None before `MIN_STEPS` steps."""
        reports = self._learned.outcomes
        if reports < MIN_STEPS:
            return None
        scale = self._total_s / self._learned.estimate(self._total_amounts)
        coefficients = LinearStepTime(*(scale * each for each in self._learned.coefficients))
        return LearnedStepCost(coefficients, self._steps, self._total_error / reports)


def _amounts(work: StepWork, steps: int) -> tuple[float, float, float, float, float]:
    """The work of `steps` steps, in the order of `LinearStepTime`."""
    return steps, work.prompt_tokens, work.sequences, work.kv_tokens, work.prompt_reads
