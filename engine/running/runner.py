"""Runs steps on the model: packs and launches them, and samples their tokens."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Final

import structlog
import torch
from torch import Tensor

from engine.attention.compiled import KernelUnavailable
from engine.attention.native import NativeDecode
from engine.attention.reference import ReferenceAttention
from engine.attention.triton import TritonAttention
from engine.errors import OutOfMemory, StartupFailure
from engine.kv.host import RestoreCosts
from engine.kv.store import KvStore
from engine.networks.interface import Packed
from engine.running.grammar_thread import GrammarThread
from engine.running.graphs import DecodeGraphs, Forward
from engine.running.loaded_model import LoadedModel
from engine.running.offloading import Offloading
from engine.running.packing import pack
from engine.sampling import GREEDY, SamplingBatch, SamplingParams, copy_to_host, prepare, sample
from engine.step.chunks import Chunk, StepPlan, reads_host
from engine.step.in_flight import Executed, InFlightStep, moment_type
from engine.step.memory import PageCopies
from engine.step.sequence import SequenceState

log = structlog.get_logger()

PROBE_PAGES: Final = 4  # pages copied to measure the cost of copying
OUT_OF_MEMORY_PHRASES: Final = ("out of memory", "can't allocate memory", "not enough memory")


class Runner:
    """The model with its KV memory; used by one thread at a time.

    On a CPU, steps run in a separate thread with `threads` compute threads; on a GPU, in stream
    order. In both cases a step can be launched while the previous one runs, and reads that one's
    tokens on the device. On a GPU, steps of up to `graph_rows` single tokens are replayed as CUDA
    graphs.
    """

    def __init__(
        self,
        model: LoadedModel,
        pages: int,
        page_tokens: int,
        *,
        threads: int | None = None,
        graph_rows: int = 0,
        offloading: Offloading | None = None,
    ) -> None:
        self.model = model
        self._offloading = offloading
        self._page_tokens = page_tokens
        self._graph_rows = graph_rows if model.device.type == "cuda" else 0
        self._allocate(pages)
        self._now = moment_type(model.device)
        self._previous: Tensor | None = None
        self._thread = _model_thread(threads) if model.device.type == "cpu" else None
        own = (threads or 1) if self._thread else 0
        self._grammars = GrammarThread(len(os.sched_getaffinity(0)) - own)

    def launch(
        self, plan: StepPlan, started_s: float, previous: InFlightStep | None = None
    ) -> InFlightStep:
        """Launch a step behind the one in flight; `started_s`: start of its composition."""
        composed_s = perf_counter()
        device = self.model.device
        offload = None
        if reads_host(plan.chunks):
            assert self._offloading is not None, "refused when it was submitted"
            offload = self._offloading.attention
        elif self._offloading is not None:
            self._offloading.attention.release()
        packed = pack(plan.chunks, self.attention, device, offload)
        params = [_sampling_params(chunk) for chunk in plan.chunks if chunk.samples_token]
        batch = prepare(params, self.model.vocabulary, device)
        forward = self._forward
        if offload is not None:
            forward = partial(self.model.network, attention=offload)
        work = partial(self._execute, plan.copies, packed, batch, forward)
        executed = self._thread.submit(work) if self._thread else _run_inline(work)
        return InFlightStep(
            plan, batch, executed, previous=previous, started_s=started_s, composed_s=composed_s
        )

    def probe(self, page: int, tokens: int = 1) -> float:
        """Run a prompt of `tokens` tokens on one page; its model time in seconds.

        Raises what the step raises. A prompt longer than the page overwrites itself, so the result
        is meaningless.
        """
        pages = [page] * -(-tokens // self._page_tokens)
        sequence = SequenceState("probe", 0, [0] * tokens, tokens, 1, 1, 1, pages=pages)
        step = self.launch(
            StepPlan([Chunk(sequence, 0, tokens, True, None)], [], PageCopies()), 0.0
        )
        step.result()
        return step.times.model_s

    def measure(self, tokens: int) -> RestoreCosts:
        """Measure the costs of copying a page and computing a prompt token; all pages are free."""
        self.probe(0, tokens)
        pages = list(range(min(PROBE_PAGES, self.store.pages)))
        self.store.copy_in(pages, self.store.copy_out(pages))
        began = self._now()
        self.store.copy_in(pages, self.store.copy_out(pages))
        copied = self._now()
        copied.wait()
        page_copy_s = began.seconds_until(copied) / (2 * len(pages))
        return RestoreCosts(page_copy_s, self.probe(0, tokens) / tokens)

    def clear(self) -> None:
        """Zero all pages: some may hold NaN or infinity."""
        self.store.clear()
        if self._offloading is not None:
            self._offloading.store.clear()

    def shrink(self, pages: int) -> int:
        """Replace the pool by a smaller, empty one; the number of its pages."""
        del self.store, self.attention, self._forward
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        self._allocate(pages)
        return pages

    def close(self) -> None:
        """End its threads."""
        if self._thread:
            self._thread.shutdown()
        self._grammars.close()
        if self._offloading is not None:
            self._offloading.close()

    def _allocate(self, pages: int) -> None:
        model = self.model
        try:
            self.store = KvStore(
                model.kv_shape, pages, self._page_tokens, model.dtype, model.device
            )
        except (RuntimeError, MemoryError, OSError) as error:
            raise StartupFailure(
                f"LMAAS_KV_TOKENS: no memory for {pages} pages of {self._page_tokens} tokens"
            ) from error
        self.attention = choose_attention(self.store, model.heads)
        self._forward: Forward = partial(model.network, attention=self.attention)
        if self._graph_rows:
            self._capture()

    def _capture(self) -> None:
        assert isinstance(self.attention, TritonAttention)
        static_plan = self.attention.static_plan(self._graph_rows, self.model.context_tokens)
        with torch.inference_mode():
            self._forward = DecodeGraphs(
                self._forward, static_plan, self._graph_rows, self.model.device
            )

    @property
    def _fetched_bytes(self) -> int:
        return self._offloading.attention.fetched_bytes if self._offloading is not None else 0

    def _execute(
        self, copies: PageCopies, packed: Packed, batch: SamplingBatch, forward: Forward
    ) -> Executed:
        """Run a step on the device. OutOfMemory if it does not fit."""
        previous, self._previous = self._previous, None
        try:
            with torch.inference_mode():
                began, fetched_before = self._now(), self._fetched_bytes
                self._move(copies)
                copied = self._now()
                if packed.carry is not None:
                    assert previous is not None, "the previous step failed"
                    packed.token_ids[packed.carry[0]] = previous[packed.carry[1]]
                grammars = batch.grammars
                filled = self._grammars.fill(grammars) if grammars else None
                logits = forward(packed)
                if filled is not None:
                    filled.result()
                sampled = sample(logits, batch, previous)
                pending = copy_to_host(sampled)
                self._previous = sampled.tokens
                complete = self._grammars.follow(grammars, pending) if grammars else None
                fetched_bytes = self._fetched_bytes - fetched_before
                return Executed(pending, began, copied, self._now(), complete, fetched_bytes)
        except MemoryError as error:
            raise OutOfMemory(str(error)) from error
        except (
            RuntimeError
        ) as error:  # torch.OutOfMemoryError is one; on a CPU there is no own type
            if any(phrase in str(error).lower() for phrase in OUT_OF_MEMORY_PHRASES):
                raise OutOfMemory(str(error)) from error
            raise

    def _move(self, copies: PageCopies) -> None:
        for swapped, pages in copies.swap_out:
            swapped.fill(self.store.copy_out(pages))
        if copies.scrub:
            self.store.scrub(copies.scrub)
        if copies.scrub_offloaded and self._offloading is not None:
            self._offloading.store.scrub(copies.scrub_offloaded)
        for swapped, pages in copies.swap_in:
            assert swapped.content is not None, "the copy in host memory is missing"
            self.store.copy_in(pages, swapped.content)


def choose_attention(store: KvStore, heads: int) -> TritonAttention | ReferenceAttention:
    """The fastest attention for a store's device, for `heads` query heads."""
    if store.content.device.type == "cuda":
        return TritonAttention(store, heads)
    try:
        return ReferenceAttention(store, NativeDecode(store, heads))
    except KernelUnavailable as reason:
        log.warning("kernel_not_compiled", reason=str(reason), instead="slower, by torch")
        return ReferenceAttention(store)


def _sampling_params(chunk: Chunk) -> SamplingParams:
    sequence = chunk.sequence
    if sequence.is_greedy:
        return GREEDY
    start = sequence.padding + sequence.prompt_tokens
    automaton = None if sequence.done else sequence.automaton  # in lock step it is computed on
    history = sequence.needs_history
    position = chunk.start + chunk.length - sequence.padding
    short = position - sequence.prompt_tokens < sequence.sampling.min_tokens
    return SamplingParams(
        sampling=sequence.sampling,
        position=position,
        prompt=sequence.tokens[sequence.padding : start] if history else (),
        generated=sequence.tokens[start:] if history else (),
        carried=chunk.carry,
        automaton=automaton,
        restart=automaton.expect(sequence.tokens, start, carried=chunk.carry is not None)
        if automaton
        else None,
        banned=sorted(sequence.stop_ids) if short else (),
    )


def _model_thread(threads: int | None) -> ThreadPoolExecutor:
    """The thread that runs the steps, with its own OpenMP thread team.

    It must have the only team: with a second one, even an idle one, OpenMP counts more threads than
    cores and stops spinning at its barriers, which costs a third of the speed.
    """
    if threads is None:
        return ThreadPoolExecutor(1, "model")
    return ThreadPoolExecutor(1, "model", torch.set_num_threads, (threads,))


def _run_inline(work: "partial[Executed]") -> "Future[Executed]":
    future: Future[Executed] = Future()
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 - `result` of the step raises it
        future.set_exception(error)
    return future
