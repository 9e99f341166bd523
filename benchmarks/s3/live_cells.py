"""The contenders of S3 live, and what is measured of a pass."""

from collections.abc import Sequence
from statistics import mean
from typing import Final

import numpy as np
from msgspec import Struct

from benchmarks.harness.contenders import FCFS, OURS
from benchmarks.live.gateway_process import ServedRequests
from benchmarks.live.passes import saturated_tokens_s
from benchmarks.live.traffic import Answer
from benchmarks.s3.live_occupancy import Sample
from benchmarks.s3.live_requests import LIES
from gateway.quantiles import MEDIAN, P90
from gateway.scheduling.policy import PolicyName

OWN: Final = "own"  # lengths learned from the gateway's own answers
TRUE: Final = "true"  # lengths that are each request's `max_tokens`


class LiveContender(Struct, frozen=True, kw_only=True):
    """A policy with an admission rule, and where it has the lengths of answers from."""

    name: str
    policy: PolicyName
    admission: str = "own"
    lengths: str = OWN


MAXIMUM: Final = LiveContender(name="maximum", policy=FCFS, admission="maximum", lengths="none")
S3: Final = LiveContender(name="S³", policy="s3")
DEFAULT: Final = LiveContender(name=OURS, policy=OURS)
ORACLE: Final = LiveContender(name="S³ oracle", policy="s3", admission="maximum", lengths=TRUE)
HONEST: Final = (MAXIMUM, S3, DEFAULT, ORACLE)  # in one gateway, in this order


def lying(lie: str) -> tuple[LiveContender, ...]:
    """The contenders that predict, misled by a log."""
    return tuple(
        LiveContender(name=f"{each.name}, {lie}", policy=each.policy, lengths=lie)
        for each in (S3, DEFAULT)
    )


MISLED: Final = {lie: lying(lie) for lie in LIES}
PREDICTED: Final = {
    misled.name: honest.name
    for contenders in MISLED.values()
    for misled, honest in zip(contenders, (S3, DEFAULT), strict=True)
}


class LivePass(Struct, frozen=True, kw_only=True):
    """A pass of all requests at once: answers, history, samples, and the engine's counts."""

    contender: LiveContender
    answers: list[Answer]
    served: ServedRequests
    samples: list[Sample]
    counts: dict[str, float]

    @property
    def tokens_s(self) -> float:
        """Tokens generated a second while requests wait."""
        return saturated_tokens_s(self.served)

    @property
    def mean_end_s(self) -> float:
        """Seconds from the first start to an answer's end, on average."""
        served, arrived_s = self.served, self.served.workload.arrived_s
        return float((arrived_s + served.response_s).mean() - (arrived_s + served.queued_s).min())

    @property
    def queued(self) -> list[Sample]:
        """The samples taken while requests waited; all if none did."""
        return [each for each in self.samples if each.waiting] or self.samples

    @property
    def in_memory(self) -> float:
        """Mean number of sequences in memory while requests wait."""
        return mean(each.in_memory for each in self.queued)

    @property
    def kv_use(self) -> float:
        """Mean share of KV pages in use while requests wait."""
        return mean(each.kv_use for each in self.queued)

    @property
    def out_of_memory(self) -> int:
        """Sequences that failed, and times that the engine gave up a part of its pool."""
        return round(self.counts["failed"] + self.counts["shrinks"])

    @property
    def lost(self) -> int:
        """Requests without an answer."""
        return sum(each.error is not None for each in self.answers)

    @property
    def recomputed(self) -> int:
        """Tokens computed more than once, after preemptions.

        The last token of an answer is not computed. An answer that ends by itself ends with a stop
        token, behind which the step in flight has computed one token in vain; not so right after a
        preemption, so the number is too low by up to one token for each of these.
        """
        workload = self.served.workload
        once = workload.prompt_tokens + workload.generation_tokens - 1
        if self.contender.lengths != TRUE:  # those end at their `max_tokens`
            once = once + 2
        return max(0, round(self.counts["computed_tokens"]) - int(once.sum()))

    @property
    def median_over_true(self) -> float:
        """The median of predicted medians over true lengths."""
        workload = self.served.workload
        return float(np.median(workload.quantiles[:, MEDIAN] / workload.generation_tokens))

    @property
    def covered(self) -> float:
        """The share of answers within their predicted 0.9 quantile."""
        workload = self.served.workload
        return float(np.mean(workload.generation_tokens <= workload.quantiles[:, P90]))

    def changed(self, texts: Sequence[str]) -> int:
        """Answers with another text than these."""
        return sum(each.text != text for each, text in zip(self.answers, texts, strict=True))
