"""The load of I3 as a gateway starts it: on the device what fits, in host memory what pays."""

from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Final

from engine.protocol import EngineInfo, Sequence, Step
from gateway.generation.insight.host_cost import HostCostLearner
from gateway.generation.insight.step_cost import StepCostLearner
from gateway.scheduling.admission.prices import EngineCost
from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.host_lane import HostLane
from gateway.scheduling.policy import Options, build_policy
from gateway.scheduling.requests import HostPlacement, QueuedRequest, RunningSequence

STEPS_BETWEEN_PRICES: Final = 32  # as in the gateway


class ChosenByAdmission:
    """Decides at each step what of the load starts, and where.

    It knows the lengths: what is measured is the choice. `start` submits sequences. Steps before
    `arrive` are those from which it learns what a step costs.
    """

    def __init__(
        self,
        info: EngineInfo,
        placement: HostPlacement,
        start: Callable[[list[Sequence]], None],
    ) -> None:
        self.on_host = 0  # sequences that started there
        self._placement: HostPlacement = placement
        self._start = start
        self._step_tokens = info.step_tokens
        self._costs = StepCostLearner()
        self._lane = HostLane()
        self._host_costs = HostCostLearner(self._lane)
        self._host_costs.opened(info)
        self._lane.resize(info.kv.offload_pages, info.kv.page_tokens)
        self._loop = ControlLoop(build_policy("lmaas", Options()))
        self._loop.resize(info.kv.pages, info.kv.page_tokens)
        self._load: dict[str, Sequence] = {}
        self._requests: dict[str, QueuedRequest] = {}
        self._running: dict[str, int] = {}  # tokens of those on the device
        self._now_s = 0.0
        self._steps = 0

    def arrive(self, sequences: Many[Sequence]) -> None:
        """All of the load arrives at once."""
        for number, sequence in enumerate(sequences):
            length = float(sequence.max_tokens)
            request = QueuedRequest(
                sequence.id,
                "tenant",
                len(sequence.prompt),
                (length,) * 6,
                sequence.max_tokens,
                self._now_s + number * 1e-6,
                host=self._placement,
            )
            self._load[sequence.id] = sequence
            self._requests[sequence.id] = request
            self._loop.arrive(request)
        self._decide()

    def stepped(self, step: Step) -> None:
        """A step of the engine has ended."""
        self._now_s += step.took_s
        self._costs.observe(step)
        self._host_costs.observe(step, self._costs)
        self._loop.advance(1)
        for name in step.tokens.keys() & self._running.keys():
            self._running[name] += 1
        for finish in step.finished:
            self._ended(finish.id)
        self._steps += 1
        if self._steps % STEPS_BETWEEN_PRICES == 0:
            self._price(step)
        if self._loop.due and self._loop.waiting:
            self._decide()

    def _price(self, step: Step) -> None:
        learned = self._costs.cost
        if learned is not None:
            swap_s = step.swap_token_s or None
            self._loop.price(EngineCost(learned.coefficients, self._step_tokens, swap_s))
            self._host_costs.price()

    def _ended(self, name: str) -> None:
        request = self._requests.get(name)
        if request is not None:
            self._running.pop(name, None)
            self._lane.ended(name)
            self._loop.ended(request, request.max_tokens, self._now_s)

    def _decide(self) -> None:
        self._loop.give_up(self._now_s)
        while (dispatch := self._next()) is not None:
            for request in dispatch.requests:
                self._send(request, on_host=dispatch.on_host)

    def _next(self) -> Dispatch | None:
        fits = self._loop.dispatch(self._now_s, self._on_device)
        return fits or self._loop.move_to_host(self._now_s, self._on_device, self._lane)

    def _send(self, request: QueuedRequest, *, on_host: bool) -> None:
        given = self._load[request.id]
        if on_host:
            self.on_host += 1
        else:
            self._running[request.id] = 0
        self._start(
            [
                Sequence(
                    given.id,
                    given.prompt,
                    given.max_tokens,
                    reserve=given.max_tokens if on_host else self._loop.reserve(request),
                    memory=self._placement if on_host else "device",
                )
            ]
        )

    def _on_device(self) -> list[RunningSequence]:
        return [
            RunningSequence(
                name,
                self._requests[name].prompt_tokens,
                tokens,
                self._requests[name].quantiles,
                self._requests[name].max_tokens,
                "tenant",
            )
            for name, tokens in self._running.items()
        ]
