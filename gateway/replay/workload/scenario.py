"""Which requests arrive when, and what is predicted of them: a workload for each rate and seed."""

from dataclasses import dataclass

import numpy as np

from gateway.replay.workload.arrivals import VARIATION, ArrivalsName, generated, rescaled
from gateway.replay.workload.predictions import TAU, PredictorName, predicted
from gateway.replay.workload.workload import Workload

ARRIVALS, LENGTHS, NOISE = range(3)  # streams of chance that do not disturb each other


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`source` with its own arrivals, or `drawn` requests of it at random with generated ones."""

    source: Workload
    arrivals: ArrivalsName = "trace"
    variation: float = VARIATION
    drawn: int | None = None
    predictor: PredictorName = "noise"
    tau: float = TAU

    @property
    def random(self) -> bool:
        """Whether seeds differ."""
        made_up = self.predictor in {"noise", "shuffled"}
        return made_up or self.arrivals != "trace" or self.drawn is not None

    def workload(self, rate_s: float | None, seed: int) -> Workload:
        """The requests of this seed, `rate_s` a second, None for as they came."""
        requests = self._requests(seed)
        if self.arrivals != "trace":
            assert rate_s is not None, "generated arrivals have a rate"
            chance = _chance(seed, ARRIVALS)
            times = generated(self.arrivals, len(requests), rate_s, chance, self.variation)
            requests = requests.arriving(times)
        elif rate_s is not None:
            requests = requests.arriving(rescaled(requests.arrived_s, rate_s))
        return predicted(requests, self.predictor, _chance(seed, NOISE), self.tau)

    def _requests(self, seed: int) -> Workload:
        if self.drawn is None:
            return self.source
        places = _chance(seed, LENGTHS).integers(len(self.source), size=self.drawn)
        return self.source.take(places)


def _chance(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng((seed, stream))
