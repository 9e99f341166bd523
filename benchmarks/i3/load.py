"""A load of long answers on the engine's step loop, under different uses of host memory."""

from collections.abc import Callable
from collections.abc import Sequence as Many
from queue import Queue
from random import Random
from time import perf_counter
from typing import Final, Literal, NamedTuple, TypeAlias

from benchmarks.i3.chosen import ChosenByAdmission
from benchmarks.i3.link import Link
from engine.kv.host import HostTier, RestoreCosts
from engine.kv.pages import PagePool
from engine.loop import StepLoop
from engine.protocol import EngineInfo, HostCost, KvPlacement, KvState, Sequence, Step
from engine.running.host_costs import measure_host_costs
from engine.running.loaded_model import LoadedModel
from engine.running.offloading import set_up_offloading
from engine.running.runner import Runner, choose_attention
from engine.step.commands import Start
from engine.step.composer import Composer
from engine.step.memory import KvMemory
from engine.step.offloaded import OffloadedQueue
from gateway.scheduling.requests import HostPlacement

Use: TypeAlias = Literal[
    "recompute",
    "swap",
    "host-exact",
    "host-speculative",
    "device",
    "host-exact, chosen",
    "host-speculative, chosen",
]

PAGE_TOKENS: Final = 16
STEP_TOKENS: Final = 512
PRICE_SEQUENCES: Final = 4
PRICE_TURNS: Final = 3
PRICE_PROMPT: Final = 64
PRICE_ANSWER: Final = 80
POOL_FRACTION: Final = 4  # the load's keys and values over the device's pool
PATIENCE_S: Final = 900.0  # for the next step
CHOSEN: Final[dict[Use, HostPlacement]] = {
    "host-exact, chosen": "host-exact",
    "host-speculative, chosen": "host-speculative",
}


class Load(NamedTuple):
    """Sequences of one size, that all arrive at once."""

    sequences: int
    prompt: int
    answer: int

    @property
    def pages(self) -> int:
        """The pages that all of them fill."""
        return self.sequences * -(-(self.prompt + self.answer) // PAGE_TOKENS)


class Timing(NamedTuple):
    """A run of a load: `decode_s` is the median time of a step that only decodes all of it.

    `on_host` sequences of it ran with their keys and values in host memory.
    """

    seconds: float
    tokens: int
    steps: int
    preemptions: int
    copied: int
    decode_s: float | None
    on_host: int

    @property
    def tokens_s(self) -> float:
        """Generated tokens a second."""
        return self.tokens / self.seconds


def run_load(model: LoadedModel, load: Load, use: Use, link: Link, threads: int) -> Timing:
    """Run the load; the device holds a quarter of it, or all of it in `device`."""
    host = use in ("host-exact", "host-speculative", *CHOSEN)
    pages = load.pages if use == "device" else load.pages // POOL_FRACTION
    offloading = None
    if host:
        offloading = set_up_offloading(model, load.pages, PAGE_TOKENS, choose_attention)
        link.put_before(offloading.store, "fetch_pages", "fetch_rows")
    runner = Runner(model, pages, PAGE_TOKENS, threads=threads, offloading=offloading)
    link.put_before(runner.store, "copy_out", "copy_in")
    # Swapping is made to look free, so that it is chosen wherever it is possible.
    swapped = HostTier(load.pages if use == "swap" else 0, RestoreCosts(0.0, 1.0))
    memory = KvMemory(PagePool(pages, PAGE_TOKENS), swapped, sharing=False, pin_share=0.0)
    offloaded = OffloadedQueue(PagePool(load.pages if host else 0, PAGE_TOKENS), STEP_TOKENS)
    composer = Composer(memory, STEP_TOKENS, offloaded=offloaded)
    costs = {} if offloading is None else measure_host_costs(runner, offloading, STEP_TOKENS)
    steps: Queue[Step | BaseException] = Queue()
    loop = StepLoop(runner, composer, steps.put, steps.put)
    loop.start()
    try:
        chosen = None
        if use in CHOSEN:
            info = _info(model, pages, load.pages, costs)
            chosen = ChosenByAdmission(
                info, CHOSEN[use], lambda sequences: loop.put(Start(sequences))
            )
            for turn in range(PRICE_TURNS):  # after which it knows the cost of steps
                loop.put(Start(_priced_by(model, turn)))
                _until_the_end(steps, PRICE_SEQUENCES, chosen.stepped)
        copied = link.copied
        began_s = perf_counter()
        sequences = _sequences(model, load, use)
        if chosen is None:
            loop.put(Start(sequences))
        else:
            chosen.arrive(sequences)
        found = _until_the_end(steps, load.sequences, chosen.stepped if chosen else None)
        seconds = perf_counter() - began_s
    finally:
        loop.close()
        loop.join()
        runner.close()
    decoding = [each for each in found if each.computed == load.sequences == len(each.tokens)]
    times = sorted(each.took_s for each in decoding)
    return Timing(
        seconds=seconds,
        tokens=load.sequences * load.answer,
        steps=len(found),
        preemptions=sum(len(each.preempted) for each in found),
        copied=link.copied - copied,
        decode_s=times[len(times) // 2] if times else None,
        on_host=chosen.on_host if chosen else load.sequences * host,
    )


def _info(
    model: LoadedModel, pages: int, offload_pages: int, costs: dict[KvPlacement, HostCost]
) -> EngineInfo:
    """The engine as the gateway knows it."""
    return EngineInfo(
        "",
        model.name,
        pages * PAGE_TOKENS,
        model.vocabulary,
        [],
        KvState(pages, pages, PAGE_TOKENS, offload_pages=offload_pages),
        str(model.device),
        str(model.dtype),
        step_tokens=STEP_TOKENS,
        host_costs=costs,
    )


def _priced_by(model: LoadedModel, turn: int) -> list[Sequence]:
    """Short sequences on the device, from whose steps the gateway learns what steps cost."""
    random = Random(2 + turn)
    return [
        Sequence(
            f"priced {turn} {number}",
            [random.randrange(model.vocabulary) for _ in range(PRICE_PROMPT)],
            PRICE_ANSWER * (number + 1) // PRICE_SEQUENCES,
            reserve=1,
        )
        for number in range(PRICE_SEQUENCES)
    ]


def _sequences(model: LoadedModel, load: Load, use: Use) -> list[Sequence]:
    placement: dict[Use, KvPlacement] = {
        "host-exact": "host-exact",
        "host-speculative": "host-speculative",
    }
    random = Random(1)
    return [
        Sequence(
            str(number),
            [random.randrange(model.vocabulary) for _ in range(load.prompt)],
            load.answer,
            # Who fits now starts; all outgrow it.
            reserve=1 if use in ("recompute", "swap") else load.answer,
            memory=placement.get(use, "device"),
        )
        for number in range(load.sequences)
    ]


def _until_the_end(
    steps: "Queue[Step | BaseException]",
    sequences: int,
    stepped: Callable[[Step], None] | None = None,
) -> Many[Step]:
    """The steps until all sequences ended, each reported. RuntimeError if the loop fails."""
    found: list[Step] = []
    ended = 0
    while ended < sequences:
        match steps.get(timeout=PATIENCE_S):
            case Step() as step:
                found.append(step)
                ended += len(step.finished)
                if stepped is not None:
                    stepped(step)
            case failure:
                raise RuntimeError("the step loop failed") from failure
    return found
