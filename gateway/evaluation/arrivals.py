"""Requests built from lines of a corpus, with the length history at their arrival."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from gateway.evaluation.corpus import CorpusLine
from gateway.evaluation.lengths import TokenCounter
from gateway.evaluation.sentences import SentenceEmbedder
from gateway.evaluation.vectors import TextVectors
from gateway.prediction.features.features import features
from gateway.prediction.features.length_history import LengthHistory, LengthOutcome
from gateway.prediction.messages import PredictionRequest
from gateway.prediction.model.inputs import ModelInputs
from gateway.quantiles import Floats

MAX_TOKENS: Final = 16_384  # of every request; longer than any answer of 8,000 characters
TENANT: Final = uuid5(NAMESPACE_URL, "lmaas:evaluation")
SEED: Final = 1


@dataclass(frozen=True, kw_only=True)
class EvaluationRequests:
    """n requests in order of arrival; `names` (n,) of their apps, generated `tokens` (n,)."""

    lines: list[CorpusLine]
    names: NDArray[np.str_]
    inputs: ModelInputs
    tokens: Floats

    def __len__(self) -> int:
        return len(self.lines)

    def rows(self, part: slice) -> "EvaluationRequests":
        """A slice of the requests."""
        return EvaluationRequests(
            lines=self.lines[part],
            names=self.names[part],
            inputs=self.inputs.rows(part),
            tokens=self.tokens[part],
        )


class RequestBuilder:
    """Builds requests from lines, in a seeded random order, since files are sorted by app.

    With `history`, one request arrives per second and its outcome is known before the next, also
    across calls of `build`. Without, no outcome is known.
    """

    def __init__(
        self, count: TokenCounter, texts: TextVectors, embedder: SentenceEmbedder, *, history: bool
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
        tokens = np.maximum(self._count([line.output for line in ordered]), 1)
        instructions = sorted({line.instruction for line in ordered})
        row_of = {text: number for number, text in enumerate(instructions)}
        return EvaluationRequests(
            lines=ordered,
            names=np.array([line.app for line in ordered]),
            inputs=ModelInputs(
                apps=[app_id(line.app) for line in ordered],
                features=np.stack(list(self._features(ordered, tokens))),
                text=self._texts.of([line.input for line in ordered]),
                instructions=self._embedder.embed(instructions),
                instruction_of=np.array([row_of[line.instruction] for line in ordered]),
            ),
            tokens=tokens.astype(np.float64),
        )

    def _features(
        self, lines: Sequence[CorpusLine], tokens: NDArray[np.int64]
    ) -> Iterator[NDArray[np.float32]]:
        inputs = self._count([line.input for line in lines])
        instructions = {line.instruction for line in lines}
        instruction_tokens = dict(zip(instructions, self._count(list(instructions)), strict=True))
        for line, input_tokens, generated in zip(
            lines, inputs.tolist(), tokens.tolist(), strict=True
        ):
            request = _prediction_request(
                line, input_tokens, input_tokens + int(instruction_tokens[line.instruction])
            )
            yield features(request, self._lengths.history(
                tenant=TENANT,
                app=request.app,
                end_user=line.user,
                max_tokens=MAX_TOKENS,
                now=self._now_s,
            ))  # fmt: skip
            if self._history:
                self._now_s += 1.0
                self._lengths.learn(
                    LengthOutcome(TENANT, request.app, line.user, generated, False, self._now_s)
                )


def app_id(name: str) -> UUID:
    """The id of an app, derived from its name."""
    return uuid5(TENANT, name)


def _prediction_request(
    line: CorpusLine, input_tokens: int, prompt_tokens: int
) -> PredictionRequest:
    return PredictionRequest(
        tenant=TENANT,
        app=app_id(line.app),
        end_user=line.user,
        instruction=line.instruction,
        user_input=line.input,
        user_input_tokens=input_tokens,
        prompt_tokens=prompt_tokens,
        max_tokens=MAX_TOKENS,
        temperature=1.0,
        top_p=1.0,
    )
