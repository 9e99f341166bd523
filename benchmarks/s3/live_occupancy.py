"""Sequences in memory and KV pages in use, sampled while a pass runs."""

from collections.abc import Mapping
from threading import Event, Thread
from typing import Any, Final, Self

from msgspec import Struct

from benchmarks.live.gateway_process import GatewayProcess

INTERVAL_S: Final = 0.05


class Sample(Struct, frozen=True):
    """The engine after a step, and the requests that wait for it."""

    waiting: int
    in_memory: int
    kv_use: float


class Occupancy:
    """Samples the engine's state from another thread, between entering and leaving.

    The gateway shows the state of the newest step at `/admin/engine`.
    """

    def __init__(self, gateway: GatewayProcess) -> None:
        self.samples: list[Sample] = []
        self._gateway = gateway
        self._left = Event()
        self._thread = Thread(target=self._sample, name="occupancy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _sample(self) -> None:
        with self._gateway.admin() as admin:
            while not self._left.wait(INTERVAL_S):
                if (sample := sample_of(admin.get("/admin/engine"))) is not None:
                    self.samples.append(sample)


def sample_of(engine: Mapping[str, Any]) -> Sample | None:
    """The state that the gateway shows; None before the first step.

    Preempted sequences are not in memory.
    """
    kv, step = engine["kv"], engine["step"]
    if kv is None or step is None:
        return None
    return Sample(
        engine["waiting"], step["running"] - step["suspended"], 1 - kv["free"] / kv["pages"]
    )
