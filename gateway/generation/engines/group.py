"""The engines of one model as one: what they have together, and what each of them can do."""

import asyncio
from collections.abc import Iterator
from collections.abc import Sequence as Many
from contextlib import suppress
from operator import itemgetter
from typing import Final

from msgspec import structs

from engine.protocol import HOST_PLACEMENTS, EngineInfo, KvPlacement, KvState, Mode, Step
from gateway.errors import StartupFailure
from gateway.generation.engines.session import EngineSession

OTHERS_S: Final = 10.0  # for which a start waits for further engines once one is connected
SEVERAL: Final = "the gateway drives several engines"


class EngineGroup:
    """The sessions with the engines, by number, and what holds of all of them.

    A request may run on any engine and go on on another. So what one of them cannot do is refused,
    the smallest context counts, and an engine that serves another model is refused itself. With one
    engine, all is as that engine says.
    """

    def __init__(self, sessions: Many[EngineSession]) -> None:
        self._sessions = tuple(sessions)
        self._infos: list[EngineInfo] = []
        self._joint: EngineInfo | None = None
        self._mismatch: asyncio.Future[StartupFailure] | None = None
        self.proven = False  # an engine of another model fails the start until then

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[EngineSession]:
        return iter(self._sessions)

    def __getitem__(self, number: int) -> EngineSession:
        return self._sessions[number]

    @property
    def info(self) -> EngineInfo | None:
        """The engines that have connected so far, as one; None before the first."""
        if len(self) == 1:
            return self._sessions[0].info
        infos = [session.info for session in self if session.info is not None]
        if infos != self._infos:
            self._infos, self._joint = infos, joint_info(infos)
        return self._joint

    @property
    def served(self) -> EngineInfo:
        """What `info` is; AssertionError before the first engine."""
        info = self.info
        assert info is not None, "no engine has connected yet"
        return info

    @property
    def kv(self) -> KvState | None:
        """The KV memory of all connected engines; None before the first engine."""
        if len(self) == 1:
            return self._sessions[0].kv
        present = [session.kv for session in self if session.connected and session.kv is not None]
        return joint_kv(present) if present else None if self.info is None else self.info.kv

    @property
    def step(self) -> Step | None:
        """The newest step of the engine that runs most; None before the first step."""
        steps = [session.step for session in self if session.step is not None]
        return max(steps, key=lambda step: step.running, default=None)

    @property
    def step_s(self) -> float | None:
        """Seconds of the newest step of the engine that runs most; None before the first step."""
        timed = [(each.step.running, each.step_s) for each in self if each.step and each.step_s]
        return max(timed, key=itemgetter(0))[1] if timed else None

    @property
    def connected(self) -> bool:
        """Whether any engine is connected."""
        return any(session.connected for session in self)

    @property
    def present(self) -> int:
        """How many engines are connected."""
        return sum(session.connected for session in self)

    @property
    def accepting(self) -> bool:
        """Whether any engine takes requests now."""
        return any(session.accepting for session in self)

    @property
    def held(self) -> bool:
        """Whether an operator paused or drains every engine."""
        return all(session.held for session in self)

    @property
    def paused(self) -> bool:
        """Whether an operator paused every engine."""
        return all(session.paused for session in self)

    @property
    def draining(self) -> bool:
        """Whether an operator drains every engine."""
        return all(session.draining for session in self)

    @property
    def mode(self) -> Mode:
        """How the engines batch; several ones per step."""
        return self._sessions[0].mode

    @property
    def busy_s(self) -> float:
        """Seconds since the start of the longest current step."""
        return max(session.busy_s for session in self)

    @property
    def phase(self) -> str:
        """What an engine does that starts; empty if none does."""
        return next((session.phase for session in self if session.phase), "")

    @property
    def refused(self) -> str:
        """Why an engine that answers is not used; empty if none is refused."""
        return next((session.refused for session in self if session.refused), "")

    @property
    def reason(self) -> str:
        """Why no engine serves yet, if one is refused."""
        return self.refused

    def patience_s(self, now_s: float) -> float:
        """How long requests wait on for lost engines if all stay silent; 0: no longer."""
        return max(session.patience_s(now_s) for session in self)

    def given_up(self, now_s: float) -> bool:
        """Whether all engines were away and silent for so long that no request waits for them."""
        return all(session.given_up(now_s) for session in self)

    def context_tokens(self, memory: KvPlacement) -> int:
        """The most tokens of a sequence on any of the engines, by where its memory is."""
        served = self.served
        return served.context_tokens if memory == "device" else served.offload_context_tokens

    def set_mode(self, mode: Mode) -> None:
        """Batch per step (`continuous`) or statically (`lockstep`), on later engines too."""
        for session in self:
            session.set_mode(mode)

    def fits(self, number: int, info: EngineInfo) -> bool:
        """Whether an engine that has connected serves the model of the others.

        If not, its session says why it is refused, and the start fails if it has not ended.
        """
        reason = None
        for session in self:
            if session.connected and session.number != number:
                reason = reason or difference(info, session.served)
        if reason is None:
            return True
        self._sessions[number].refuse(reason)
        if not self.proven and not self._found().done():
            self._found().set_result(StartupFailure(reason))
        return False

    async def failed(self) -> StartupFailure:
        """Wait until an engine was refused before the start has ended; returns the reason."""
        return await asyncio.shield(self._found())

    async def ready(self) -> EngineInfo:
        """Wait for an engine, and `OTHERS_S` more for the others; returns what they are as one."""
        waits = [asyncio.ensure_future(session.ready()) for session in self]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            with suppress(TimeoutError):
                async with asyncio.timeout(OTHERS_S):
                    await asyncio.gather(*waits)
        finally:
            for wait in waits:
                wait.cancel()
        return self.served

    def _found(self) -> asyncio.Future[StartupFailure]:
        if self._mismatch is None:
            self._mismatch = asyncio.get_running_loop().create_future()
        return self._mismatch


def difference(info: EngineInfo, other: EngineInfo) -> str | None:
    """Why two engines do not serve the same model; None if they do."""
    compared = (
        ("the model", info.model, other.model),
        ("a vocabulary of", info.vocabulary, other.vocabulary),
        ("the stop ids", info.stop_ids, other.stop_ids),
    )
    for words, here, there in compared:
        if here != there:
            return (
                f"{info.device} serves {words} {here}, and {other.device} {words} {there}: the "
                "engines of a gateway serve one model"
            )
    return None


def joint_info(infos: Many[EngineInfo]) -> EngineInfo | None:
    """Several engines described as one: what all of them can do, with the memory of all.

    Prefixes on demand, lock step and host memory are for one engine. None of no engine.
    """
    if not infos:
        return None
    refusals: dict[str, str] = {}
    for info in reversed(infos):
        refusals |= info.refusals
    limits = [info.max_running for info in infos]
    return structs.replace(
        infos[0],
        context_tokens=min(info.context_tokens for info in infos),
        kv=joint_kv([info.kv for info in infos]),
        device=", ".join(dict.fromkeys(info.device for info in infos)),
        dtype=", ".join(dict.fromkeys(info.dtype for info in infos)),
        max_running=sum(limits) if all(limits) else 0,
        offload_context_tokens=0,
        offload_refusals=dict.fromkeys(HOST_PLACEMENTS, SEVERAL),
        host_costs={},
        refusals=refusals | {"pins": SEVERAL, "lockstep": SEVERAL},
        probed={},
    )


def joint_kv(states: Many[KvState]) -> KvState:
    """The memory of several engines, in pages of the first."""
    page_tokens = states[0].page_tokens

    def total(of: str) -> int:
        tokens: int = sum(getattr(each, of) * each.page_tokens for each in states)
        return tokens // page_tokens

    return KvState(
        pages=total("pages"),
        free=total("free"),
        page_tokens=page_tokens,
        cached=total("cached"),
        shared=total("shared"),
        swapped=total("swapped"),
    )
