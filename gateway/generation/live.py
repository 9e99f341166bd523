"""One request between its arrival and its record."""

import asyncio
import math
from datetime import datetime
from uuid import UUID

from engine.protocol import Sampling, Sequence
from gateway.errors import LmaasError
from gateway.generation.ask import Ask
from gateway.generation.text import AnswerText
from gateway.generation.tokens import AnswerDecoder
from gateway.prediction.messages import Prediction
from gateway.scheduling.policies import Dispatch
from gateway.scheduling.waiting import Running, Waiting


class LiveRequest:
    """A request that waits, runs or has just ended. Times in `_s` are of one monotonic clock.

    Tokens grow as the engine steps; a reader keeps its own place in them, so a slow client
    holds up nobody and costs no more memory than the answer.
    """

    def __init__(
        self,
        *,
        request_id: UUID,
        ask: Ask,
        prompt: list[int],
        user_input_tokens: int,
        max_tokens: int,
        prediction: Prediction,
        decoder: AnswerDecoder,
        arrived_at: datetime,
        arrived_s: float,
    ) -> None:
        self.id = request_id
        self.ask = ask
        self.prompt = prompt
        self.user_input_tokens = user_input_tokens
        self.max_tokens = max_tokens
        self.prediction = prediction
        self.arrived_at = arrived_at
        self.arrived_s = arrived_s

        self.tokens: list[int] = []
        self.text = AnswerText(decoder, ask.stops)
        self.finish_reason: str | None = None
        self.error: LmaasError | None = None

        self.dispatch: Dispatch | None = None
        self.policy: str | None = None  # that dispatched it
        self.attempt = 0
        self.preemptions = 0
        self.dispatched_s: float | None = None
        self.first_token_s: float | None = None
        self.finished_s: float | None = None
        self._grew = asyncio.Event()

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None

    @property
    def sequence_id(self) -> str:
        """Its name in the engine; another for every time it is handed over anew."""
        return f"{self.id.hex}.{self.attempt}"

    def waiting(self, model: str) -> Waiting:
        """What the policy sees while it waits."""
        return Waiting(
            id=self.id.hex,
            model=model,
            tenant=self.ask.caller.tenant_id.hex,
            prompt_tokens=len(self.prompt),
            quantiles=self.prediction.quantiles,
            max_tokens=self.max_tokens,
            arrived_s=self.arrived_s,
        )

    def running(self) -> Running:
        """What admission sees while it runs."""
        return Running(
            id=self.id.hex,
            prompt_tokens=len(self.prompt),
            generated=len(self.tokens),
            quantiles=self.prediction.quantiles,
            max_tokens=self.max_tokens,
        )

    def sequence(self, stop_ids: list[int]) -> Sequence:
        """What the engine runs: from the prompt and whatever was generated before."""
        return Sequence(
            id=self.sequence_id,
            prompt=self.prompt,
            generated=self.tokens.copy(),
            max_tokens=self.max_tokens,
            reserve=min(self.max_tokens, max(1, math.ceil(self.prediction.upper))),
            stop_ids=stop_ids,
            sampling=Sampling(
                temperature=self.ask.temperature,
                top_p=self.ask.top_p,
                # Unseeded requests draw their own randomness, the same after a restart.
                seed=self.ask.seed if self.ask.seed is not None else self.id.int & (2**63 - 1),
            ),
        )

    def grow(self, tokens: list[int], now_s: float) -> bool:
        """Take what one step generated; whether a stop string is complete with it.

        Tokens beyond the stop string are not taken: neither counted nor learned.
        """
        if self.first_token_s is None:
            self.first_token_s = now_s
        taken, stopped = self.text.grow(tokens)
        self.tokens.extend(tokens[:taken])
        self._grew.set()
        return stopped

    def end(self, reason: str, now_s: float, error: LmaasError | None = None) -> None:
        """Nothing more comes."""
        self.finish_reason = reason
        self.error = error
        self.finished_s = now_s
        self._grew.set()

    async def growth(self) -> None:
        """Returns when there is something new since the last call; at once when done."""
        if not self.done:
            await self._grew.wait()
            self._grew.clear()

    async def ended(self) -> None:
        """Returns when nothing more will come."""
        while not self.done:
            await self.growth()
