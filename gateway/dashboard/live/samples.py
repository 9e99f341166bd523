"""The last minutes of the gateway: a sample a second of memory, queue and tokens."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

import structlog
from msgspec import Struct

from gateway.dashboard.live.forecast import MemoryForecast, forecast_memory
from gateway.generation.service import GenerationService

INTERVAL_S: Final = 1.0
KEPT_S: Final = 300.0
FORECAST_EVERY: Final = 5  # samples: a forecast takes about a millisecond
RATE_S: Final = 5.0  # of which tokens a second are the mean

log = structlog.get_logger()


class Sample(Struct, frozen=True, kw_only=True):
    """The gateway at one moment; `at_s` is of the monotonic clock.

    `used` and `peak` are shares of the KV pool, None while no engine is known; `peak_low` and
    `peak_high` are the 0.1 and 0.9 quantiles of the predicted peak. Rates are tokens a second.
    """

    at_s: float
    used: float | None
    peak: float | None
    peak_low: float | None
    peak_high: float | None
    running: int
    waiting: int
    prompt_rate: float
    generated_rate: float


class _Counted(Struct, frozen=True):
    at_s: float
    prompt: int
    generated: int


class Samples:
    """The samples of the last `KEPT_S` seconds, taken by a task from `start` to `stop`."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service
        self._samples: deque[Sample] = deque(maxlen=int(KEPT_S / INTERVAL_S))
        self._counted: deque[_Counted] = deque(maxlen=int(RATE_S / INTERVAL_S) + 1)
        self._forecast: MemoryForecast | None = None
        self._number = 0
        self._task: asyncio.Task[None] | None = None

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    @property
    def newest(self) -> Sample | None:
        """The newest sample."""
        return self._samples[-1] if self._samples else None

    def start(self) -> None:
        """Take samples from now on."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="samples")

    def stop(self) -> None:
        """Take no more samples."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def take(self) -> None:
        """Take a sample now."""
        scheduler, now_s = self._service.scheduler, time.monotonic()
        if self._number % FORECAST_EVERY == 0:
            self._forecast = forecast_memory(scheduler)
        self._number += 1
        computed, kv, table = scheduler.metrics.computed, scheduler.engine.kv, scheduler.table
        self._counted.append(_Counted(now_s, computed.prompt, computed.generated))
        oldest, newest = self._counted[0], self._counted[-1]
        passed_s = max(newest.at_s - oldest.at_s, INTERVAL_S)
        peak = None if self._forecast is None else self._forecast.peak
        self._samples.append(
            Sample(
                at_s=now_s,
                used=None if kv is None or not kv.pages else (kv.pages - kv.free) / kv.pages,
                peak=None if peak is None else peak.mean,
                peak_low=None if peak is None else peak.low,
                peak_high=None if peak is None else peak.high,
                running=len(table.running),
                waiting=len(table.waiting),
                prompt_rate=(newest.prompt - oldest.prompt) / passed_s,
                generated_rate=(newest.generated - oldest.generated) / passed_s,
            )
        )

    async def _run(self) -> None:
        while not self._service.stopping:
            try:
                self.take()
            except Exception as error:  # the next sample may succeed
                log.error("sample_failed", exc_info=error)
            await asyncio.sleep(INTERVAL_S)
