"""When a request that starts now would end on each engine, from what the engine has ahead of it.

A step of an engine takes `step_s`, and more for each sequence and each KV token that it decodes
(`LinearStepTime`). A request whose length is at least h with probability S(h) takes part in h-th
steps with that probability, next to n(h) expected sequences with k(h) expected KV tokens:

    own_s = prompt_s + Σ_h S(h)·(step_s + prompts_s + sequence_s·(n(h) + 1)
                                 + kv_token_s·(k(h) + tokens(h)))

`prompt_s` computes the prompts that are not computed yet, and of its own what the engine does not
have; `prompts_s` is for those that come later, as many in a step as in recent ones. Meanwhile it
makes the steps of the others longer: in sum by

    others_s = n(0)·prompt_s(its own) + Σ_h S(h)·n(h)·(sequence_s + kv_token_s·tokens(h))

Lengths are taken as independent. The sums run over the intervals of `page_forecast`, each counted
with the values at its middle.
"""

from collections.abc import Sequence
from math import exp
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct

from gateway.quantiles import Floats
from gateway.scheduling.admission.length_distribution import LengthDistributions, survival_function
from gateway.scheduling.admission.page_forecast import (
    INTERVAL_ENDS,
    INTERVAL_STARTS,
    interval_count,
)
from gateway.scheduling.admission.prices import EngineCost, LinearStepTime
from gateway.scheduling.requests import Quantiles, QueuedRequest, RunningSequence
from gateway.scheduling.serving_time import PRIOR

MAX_STEPS: Final = 2**17  # ahead; what is longer counts as this long
COUNT: Final = interval_count(MAX_STEPS)
FIRST: Final = INTERVAL_STARTS[1:COUNT]  # the next step is 1
LAST: Final = INTERVAL_ENDS[1:COUNT]
WIDTHS: Final = LAST - FIRST + 1  # (H,), in steps
MIDDLES: Final = (FIRST + LAST) / 2
LOG_MIDDLES: Final = np.log(MIDDLES)
RECENT_STEPS: Final = 512  # over which the prompt tokens of an engine's steps are averaged
MANY_KV_TOKENS: Final = 100_000  # at which the time of reading one is measured
MANY_SEQUENCES: Final = 64
UNKNOWN_COST: Final = LinearStepTime(
    PRIOR.step, PRIOR.prompt_token, PRIOR.sequence_step, PRIOR.token_read
)


class Ahead(NamedTuple):
    """Seconds on each engine, (E,): until a request's end, and what others take longer in sum."""

    own_s: Floats
    others_s: Floats


class _Part(Struct, frozen=True):
    """What sequences have ahead in the first intervals: of one (k,), of several (n, k) each."""

    survival: Floats
    tokens: Floats


NO_PART: Final = _Part(np.zeros((0, 0)), np.zeros((0, 0)))


class WorkForecast:
    """What each of E engines has ahead: expected sequences and KV tokens in each interval."""

    def __init__(self, engines: int) -> None:
        self._sequences = np.zeros((engines, len(WIDTHS)))
        self._tokens = np.zeros((engines, len(WIDTHS)))
        self._uncomputed = np.zeros(engines)  # prompt tokens
        self._prompts = np.zeros(engines)  # prompt tokens in a step, on recent average
        self._read = [NO_PART] * engines  # of what ran at the refresh
        self._members: list[dict[str, _Part | int]] = [{} for _ in range(engines)]  # or its row
        self._step_s, self._prompt_s, self._sequence_s, self._token_s, self._read_s = np.zeros(
            (5, engines)
        )
        self._step_tokens = [0] * engines
        self._assumed: Quantiles | None = None
        self.steps = np.zeros(engines, np.int64)  # since the refresh
        self._latest: tuple[str, Floats] = "", WIDTHS  # whose survival was looked at last
        for engine in range(engines):
            self.price(engine, None)

    def running(self, engine: int) -> int:
        """How many sequences an engine has."""
        return len(self._members[engine])

    def peak_tokens(self, engine: int) -> float:
        """The most KV tokens that an engine is expected to hold at once."""
        return float(self._tokens[engine].max())

    def price(self, engine: int, cost: EngineCost | None) -> None:
        """Set the measured cost of an engine; None: it is not known."""
        known = UNKNOWN_COST if cost is None else linear(cost)
        self._step_tokens[engine] = 0 if cost is None else cost.step_tokens
        self._step_s[engine], self._prompt_s[engine] = known.step_s, known.prompt_token_s
        self._sequence_s[engine], self._token_s[engine] = known.sequence_s, known.kv_token_s
        self._read_s[engine] = known.prompt_read_s

    def assume(self, quantiles: Quantiles | None) -> None:
        """Use these quantiles for every request from now on; None: the predicted ones."""
        self._assumed = quantiles

    def oldest(self, among: Sequence[int]) -> int:
        """Which of these engines has run most steps since it was refreshed."""
        if len(among) == len(self.steps):
            return int(self.steps.argmax())
        return max(among, key=self.steps.__getitem__)

    def refresh(self, engine: int, running: Sequence[RunningSequence]) -> None:
        """Start again from the sequences that an engine has now."""
        self.steps[engine] = 0
        self._members[engine].clear()
        self._sequences[engine] = self._tokens[engine] = 0.0
        if not running:
            self._uncomputed[engine] = 0.0
            return
        lengths = LengthDistributions.of(running)
        middles = MIDDLES[: lengths.intervals_of(MIDDLES)]
        survival = lengths.survival(middles)
        held = np.array([each.kv_tokens for each in running], np.float64)[:, None]
        tokens = survival * (held + middles)
        self._read[engine] = _Part(survival, tokens)
        self._members[engine] = {each.id: row for row, each in enumerate(running)}
        self._sequences[engine, : len(middles)] = survival.sum(axis=0)
        self._tokens[engine, : len(middles)] = tokens.sum(axis=0)
        unstarted = sum(each.prompt_tokens for each in running if not each.generated)
        self._uncomputed[engine] = min(self._uncomputed[engine], unstarted)

    def advance(self, engine: int, steps: int) -> None:
        """An engine has run this number of steps: prompts were computed in them."""
        self.steps[engine] += steps
        self._prompts[engine] *= exp(-steps / RECENT_STEPS)
        if self._uncomputed[engine]:
            room = max(self._step_tokens[engine] - self.running(engine), 1)
            self._uncomputed[engine] = max(self._uncomputed[engine] - steps * room, 0.0)

    def join(self, engine: int, sequence: QueuedRequest | RunningSequence, known: int) -> None:
        """A sequence starts on an engine, which has `known` tokens of its prompt."""
        survival, held = self._survival(sequence), _held(sequence)
        self._latest = "", WIDTHS
        count = len(survival)
        part = _Part(survival, survival * (held + MIDDLES[:count]))
        self._members[engine][sequence.id] = part
        self._sequences[engine, :count] += part.survival
        self._tokens[engine, :count] += part.tokens
        uncomputed = max(held - known, 0)
        self._uncomputed[engine] += uncomputed
        self._prompts[engine] += uncomputed / RECENT_STEPS

    def leave(self, engine: int, sequence_id: str) -> None:
        """A sequence left an engine; an unknown one is ignored."""
        part = self._members[engine].pop(sequence_id, None)
        if part is not None:
            part = self._part(engine, part)
            count = len(part.survival)
            sequences, tokens = self._sequences[engine, :count], self._tokens[engine, :count]
            np.maximum(sequences - part.survival, 0.0, out=sequences)
            np.maximum(tokens - part.tokens, 0.0, out=tokens)

    def _part(self, engine: int, part: _Part | int) -> _Part:
        """A member's part, which may be a row of what was read."""
        if isinstance(part, _Part):
            return part
        read = self._read[engine]
        return _Part(read.survival[part], read.tokens[part])

    def ahead(self, sequence: QueuedRequest | RunningSequence, known: Sequence[int]) -> Ahead:
        """What starting this sequence now would mean on each engine.

        `known` (E,) are the tokens from its start that the engine has computed already.
        """
        survival = self._survival(sequence)
        count, held = len(survival), _held(sequence)
        weights = np.empty((count, 2))  # of steps, of the KV tokens that it reads in them
        np.multiply(survival, WIDTHS[:count], out=weights[:, 0])
        np.multiply(weights[:, 0], held + MIDDLES[:count], out=weights[:, 1])
        steps, reads = weights.sum(axis=0).tolist()
        met, met_reads = self._sequences[:, :count].dot(weights).T  # (E,) each
        if any(known):
            computed = np.array(known, np.float64)
            prompt_reads = (held**2 - computed**2) / 2  # KV tokens
            prompt_s = self._prompt_s * (held - computed) + self._read_s * prompt_reads
        else:
            prompt_s = self._prompt_s * held + self._read_s * (held**2 / 2)
        met_s = self._sequence_s * met
        own_s = (
            prompt_s
            + met_s
            + self._token_s * (self._tokens[:, :count].dot(weights[:, 0]) + reads)
            + self._prompt_s * (self._uncomputed + self._prompts * steps)
            + (self._step_s + self._sequence_s) * steps
        )
        others_s = self._sequences[:, 0] * prompt_s + met_s + self._token_s * met_reads
        return Ahead(own_s, others_s)

    def check(self) -> None:
        """AssertionError if sums and members disagree; for tests."""
        for engine, members in enumerate(self._members):
            survival = sum(self._part(engine, each).survival.sum() for each in members.values())
            assert np.isclose(self._sequences[engine].sum(), survival)

    def _survival(self, sequence: QueuedRequest | RunningSequence) -> Floats:
        """P(it runs) at the middle of each interval that it may reach, if it starts or goes on now.

        Those of a sequence with `max_tokens` behind it are none.
        """
        if self._latest[0] != sequence.id:
            self._latest = sequence.id, self._survival_of(sequence)
        return self._latest[1]

    def _survival_of(self, sequence: QueuedRequest | RunningSequence) -> Floats:
        if sequence.generated:
            started = sequence.started() if isinstance(sequence, QueuedRequest) else sequence
            lengths = LengthDistributions.of([started])
            survival: Floats = lengths.survival(MIDDLES[: lengths.intervals_of(MIDDLES)])[0]
            return survival
        quantiles = sequence.quantiles if self._assumed is None else self._assumed
        count = int(MIDDLES.searchsorted(sequence.max_tokens, side="right"))
        return survival_function(quantiles, sequence.max_tokens).ahead(LOG_MIDDLES[:count])


def linear(cost: EngineCost) -> LinearStepTime:
    """A cost's step time as coefficients: those it has, or its mean slopes."""
    step_time = cost.step_time
    if isinstance(step_time, LinearStepTime):
        return step_time
    step_s = step_time.seconds(0, 0, 0.0)
    prompt_s = step_time.seconds(max(cost.step_tokens, 1), 0, 0.0) - step_s
    rows_s = step_time.seconds(0, MANY_SEQUENCES, 0.0) - step_s
    reads_s = step_time.seconds(0, 0, float(MANY_KV_TOKENS)) - step_s
    return LinearStepTime(
        step_s,
        prompt_s / max(cost.step_tokens, 1),
        rows_s / MANY_SEQUENCES,
        reads_s / MANY_KV_TOKENS,
    )


def _held(sequence: QueuedRequest | RunningSequence) -> int:
    """Tokens that are computed before its next one is generated."""
    return sequence.prompt_tokens + sequence.generated
