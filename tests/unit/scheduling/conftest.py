"""Builders of the scheduler's input, with defaults for what a test does not set."""

from collections.abc import Callable
from itertools import count
from typing import TypeAlias

import pytest

from gateway.scheduling.lmaas.cost_class import QueueEntry
from gateway.scheduling.requests import (
    HostPlacement,
    Lane,
    Quantiles,
    QueuedRequest,
    RunningSequence,
    SharedPrefix,
)

MakeRequest: TypeAlias = Callable[..., QueuedRequest]
MakeRunning: TypeAlias = Callable[..., RunningSequence]
MakeEntry: TypeAlias = Callable[..., QueueEntry]

SPREAD = (0.4, 0.6, 1.0, 1.5, 2.2, 3.0)
numbers = count()


def spread(generation: float, max_tokens: int) -> Quantiles:
    low, lower, middle, upper, high, highest = (
        min(max(generation * share, 1.0), float(max_tokens)) for share in SPREAD
    )
    return low, lower, middle, upper, high, highest


@pytest.fixture(scope="session")
def a_request() -> MakeRequest:
    def make(
        prompt: int = 50,
        generation: float = 40,
        *,
        max_tokens: int = 200,
        arrived_s: float = 0.0,
        tenant: str = "t",
        request_id: str | None = None,
        quantiles: Quantiles | None = None,
        share: float = 1.0,
        urgency: float = 1.0,
        surcharge: float = 1.0,
        deadline_s: float | None = None,
        start_by_s: float | None = None,
        lane: Lane = "interactive",
        prefix: SharedPrefix | None = None,
        app: str = "",
        user: str = "",
        app_share: float = 1.0,
        host: HostPlacement | None = None,
    ) -> QueuedRequest:
        return QueuedRequest(
            id=request_id or f"r{next(numbers)}",
            tenant=tenant,
            prompt_tokens=prompt,
            quantiles=quantiles or spread(generation, max_tokens),
            max_tokens=max_tokens,
            arrived_s=arrived_s,
            share=share,
            urgency=urgency,
            surcharge=surcharge,
            deadline_s=deadline_s,
            start_by_s=start_by_s,
            lane=lane,
            prefix=prefix,
            app=app,
            user=user,
            app_share=app_share,
            host=host,
        )

    return make


@pytest.fixture(scope="session")
def a_sequence() -> MakeRunning:
    def make(
        prompt: int = 50,
        generation: float = 40,
        *,
        generated: int = 0,
        max_tokens: int = 200,
        quantiles: Quantiles | None = None,
        lane: Lane = "interactive",
        prefix: SharedPrefix | None = None,
    ) -> RunningSequence:
        return RunningSequence(
            id=f"s{next(numbers)}",
            prompt_tokens=prompt,
            generated=generated,
            quantiles=quantiles or spread(generation, max_tokens),
            max_tokens=max_tokens,
            lane=lane,
            prefix=prefix,
        )

    return make


@pytest.fixture(scope="session")
def an_entry() -> MakeEntry:
    def make(
        request: QueuedRequest,
        cost: float = 1.0,
        *,
        serving_s: float = 1.0,
        virtual_arrival_s: float | None = None,
    ) -> QueueEntry:
        return QueueEntry(
            serial=next(numbers),
            request=request,
            serving_s=serving_s,
            cost=cost,
            virtual_arrival_s=request.arrived_s if virtual_arrival_s is None else virtual_arrival_s,
        )

    return make
