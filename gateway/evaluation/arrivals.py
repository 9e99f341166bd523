"""Requests built from lines of a corpus, with the length history at their arrival."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from gateway.evaluation.corpus import CorpusLine, MeasuredLength
from gateway.evaluation.lengths import TokenCounter, line_lengths
from gateway.evaluation.sentences import SentenceEmbedder
from gateway.evaluation.vectors import TextVectors
from gateway.prediction.features.features import features
from gateway.prediction.features.length_history import LengthHistory, LengthOutcome
from gateway.prediction.messages import PredictionRequest
from gateway.prediction.model.inputs import ModelInputs, form_codes
from gateway.quantiles import Bools, Floats

TENANT: Final = uuid5(NAMESPACE_URL, "lmaas:evaluation")
SEED: Final = 1


@dataclass(frozen=True, kw_only=True)
class EvaluationRequests:
    """n requests in order of arrival; `names` (n,) of their apps, generated `tokens` (n,).

    An answer of `max_tokens` (n,) was cut off.
    """

    lines: list[CorpusLine]
    names: NDArray[np.str_]
    inputs: ModelInputs
    tokens: Floats
    max_tokens: Floats

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def censored(self) -> Bools:
        """Which answers were cut off, (n,)."""
        return np.asarray(self.tokens >= self.max_tokens)

    def rows(self, which: slice | NDArray[np.intp]) -> "EvaluationRequests":
        """A subset of the requests."""
        part = np.arange(len(self))[which]
        return EvaluationRequests(
            lines=[self.lines[row] for row in part.tolist()],
            names=self.names[part],
            inputs=self.inputs.rows(part),
            tokens=self.tokens[part],
            max_tokens=self.max_tokens[part],
        )


class RequestBuilder:
    """Builds requests from lines, in a seeded random order, since files are sorted by app.

    With `history`, one request arrives per second and its outcome is known before the next, also
    across calls of `build`. Without, no outcome is known. Without `count` the lines need measured
    lengths.
    """

    def __init__(
        self,
        count: TokenCounter | None,
        texts: TextVectors,
        embedder: SentenceEmbedder,
        *,
        history: bool,
    ) -> None:
        self._count = count
        self._texts = texts
        self._embedder = embedder
        self._history = history
        self._lengths = LengthHistory()
        self._now_s = 0.0

    def build(self, lines: Sequence[CorpusLine]) -> EvaluationRequests:
        """Build the requests of these lines, which arrive after those of earlier calls."""
        ordered = Random(SEED).sample(lines, len(lines))
        lengths = line_lengths(ordered, self._count)
        instructions = sorted({line.instruction for line in ordered})
        row_of = {text: number for number, text in enumerate(instructions)}
        return EvaluationRequests(
            lines=ordered,
            names=np.array([line.app for line in ordered]),
            inputs=ModelInputs(
                apps=[app_id(line.app) for line in ordered],
                features=np.stack(list(self._features(ordered, lengths))),
                text=self._texts.of([line.input for line in ordered]),
                instructions=self._embedder.embed(instructions),
                instruction_of=np.array([row_of[line.instruction] for line in ordered]),
                sentences=self._embedder.embed([line.input for line in ordered]),
                forms=form_codes([line.form for line in ordered]),
            ),
            tokens=np.array([each.answer_tokens for each in lengths], dtype=np.float64),
            max_tokens=np.array([each.max_tokens for each in lengths], dtype=np.float64),
        )

    def _features(
        self, lines: Sequence[CorpusLine], lengths: Sequence[MeasuredLength]
    ) -> Iterator[NDArray[np.float32]]:
        for line, length in zip(lines, lengths, strict=True):
            request = _prediction_request(line, length)
            yield features(request, self._lengths.history(
                tenant=TENANT,
                app=request.app,
                end_user=line.user,
                max_tokens=length.max_tokens,
                now=self._now_s,
                form=line.form,
            ))  # fmt: skip
            if self._history:
                self._now_s += 1.0
                tokens = length.answer_tokens
                censored = tokens >= length.max_tokens
                self._lengths.learn(
                    LengthOutcome(
                        TENANT,
                        request.app,
                        line.user,
                        tokens,
                        censored,
                        self._now_s,
                        line.form,
                    )
                )


def app_id(name: str) -> UUID:
    """The id of an app, derived from its name."""
    return uuid5(TENANT, name)


def _prediction_request(line: CorpusLine, length: MeasuredLength) -> PredictionRequest:
    return PredictionRequest(
        tenant=TENANT,
        app=app_id(line.app),
        end_user=line.user,
        instruction=line.instruction,
        user_input=line.input,
        user_input_tokens=length.input_tokens,
        prompt_tokens=length.prompt_tokens,
        max_tokens=length.max_tokens,
        temperature=1.0,
        top_p=1.0,
        form=line.form,
    )
