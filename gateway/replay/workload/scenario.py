"""Makes a workload for each rate and seed: requests, arrival times and predictions."""

from dataclasses import dataclass

import numpy as np

from gateway.replay.workload.arrivals import (
    GAMMA_VARIATION,
    ArrivalsName,
    generate_arrivals,
    rescaled,
)
from gateway.replay.workload.job import ReplayJob
from gateway.replay.workload.predictions import TAU, PredictorName, with_predictions
from gateway.replay.workload.workload import Workload

ARRIVALS, LENGTHS, NOISE, LINES = range(4)  # independent random streams of a seed


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Requests and how they arrive.

    With `sample_size`, that many requests are drawn from `source` at random, else all are used.
    """

    source: Workload
    arrivals: ArrivalsName = "trace"
    variation: float = GAMMA_VARIATION
    sample_size: int | None = None
    predictor: PredictorName = "noise"
    tau: float = TAU

    @property
    def is_random(self) -> bool:
        """Whether workloads differ between seeds."""
        random_predictions = self.predictor in {"noise", "shuffled"}
        return random_predictions or self.arrivals != "trace" or self.sample_size is not None

    def workload(self, rate_s: float | None, seed: int, job: ReplayJob | None = None) -> Workload:
        """The requests of a seed at a rate of `rate_s`; None: the trace's own rate.

        The lines of a job come in addition: neither its start nor their number is scaled.
        """
        requests = self._requests(seed)
        if self.arrivals != "trace":
            assert rate_s is not None, "generated arrivals have a rate"
            generator = _generator(seed, ARRIVALS)
            times = generate_arrivals(
                self.arrivals, len(requests), rate_s, generator, self.variation
            )
            requests = requests.with_arrivals(times)
        elif rate_s is not None:
            requests = requests.with_arrivals(rescaled(requests.arrived_s, rate_s))
        predicted = with_predictions(requests, self.predictor, _generator(seed, NOISE), self.tau)
        if job is None:
            return predicted
        return predicted.joined(job.requests(self.predictor, _generator(seed, LINES), self.tau))

    def _requests(self, seed: int) -> Workload:
        if self.sample_size is None:
            return self.source
        indices = _generator(seed, LENGTHS).integers(len(self.source), size=self.sample_size)
        return self.source.take(indices)


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng((seed, stream))
