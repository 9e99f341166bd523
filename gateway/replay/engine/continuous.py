"""A simulated engine with continuous batching (iteration-level scheduling), event by event.

It follows the rules of the engine's composer: all running sequences decode, then prompt tokens fill
the step; sequences start in order of submission while all reservations fit, and a single one always
starts; if pages run out, the sequence with the longest expected remainder is preempted. While the
set of sequences does not change, each decodes one token a step, and all these steps are one event.
"""

from bisect import insort
from collections import deque
from heapq import heappop, heappush
from math import inf

from gateway.replay.cost.model import EngineModel
from gateway.replay.engine.base import Sequences, SimulatedEngine
from gateway.replay.engine.decode_pages import DecodePages
from gateway.replay.engine.reservations import Reservations
from gateway.replay.engine.sequence import SimulatedSequence
from gateway.scheduling.admission.length_distribution import LengthDistributions


class ContinuousEngine(SimulatedEngine):
    """Continuous batching with paged memory, reservations and preemption.

    A sequence prefills, then decodes. After its last token it keeps its pages until the real engine
    would have noticed its end. `free` is the number of free pages at the last boundary.
    """

    def __init__(self, model: EngineModel) -> None:
        super().__init__(model)
        self._page_tokens = model.shape.page_tokens
        self.free = model.shape.pages
        self.waiting: deque[SimulatedSequence] = deque()
        self.preempted: Sequences = []  # in order of arrival
        self.running: dict[int, SimulatedSequence] = {}  # by arrival number, in start order
        self.reservations = Reservations(model.shape.pages, model.shape.page_tokens)
        self._decode_pages = DecodePages(model.shape.page_tokens)
        self._prefilling: Sequences = []
        self._prefilled: Sequences = []  # by the running step, except at most the last token
        self._awaiting_first_token: Sequences = []  # it comes with the next step
        self._finish_heap: list[tuple[int, int, int, SimulatedSequence]] = []
        self._leaving: deque[tuple[int, SimulatedSequence]] = deque()
        self._start_blocked = False  # the next sequence does not fit, and no pages were freed since
        self._copy_s = 0.0  # of swapping, before the next step
        self._prompt_reads = 0.0  # of the next step: KV tokens read by prompt tokens

    def pages_at(self, at_s: float) -> int:
        """Pages in use at a time up to `next_s`."""
        held = self._shape.pages - self.free
        if not self._stepping:
            return held
        steps = max(self._timeline.boundary(at_s) - self.steps, 1)
        return held + self._decode_pages.new_pages_over(self.steps, steps)

    def _finish_steps(self) -> Sequences:
        self._account()
        self.steps = self._timeline.last
        for sequence in self._prefilled:
            self._finish_prefill(sequence)
        self._prefilled.clear()
        return self._finished()

    def _begin_steps(self) -> None:
        while self._leaving and self._leaving[0][0] <= self.steps:
            self._leave(self._leaving.popleft()[1])
        prompts = self._prepare()
        while not (prompts or self._decode_pages.count) and self._leaving:
            self._drain_leaving()
            prompts = self._prepare()
        if prompts or self._decode_pages.count:
            self._begin(prompts)

    def _prepare(self) -> int:
        """Preempt, start and assign pages for the next step; returns its prompt tokens."""
        self.waiting.extend(self._submissions.take(self.steps))
        if not (self.running or self.preempted or self.waiting):
            self.waiting.extend(self._submissions.take(inf))
        if self._pages_needed() > self.free:
            self._preempt_for_pages()
        if self.waiting or self.preempted:
            self._start_fitting()
        return self._schedule_prefill() if self._prefilling else 0

    def _begin(self, prompts: int) -> None:
        """Begin one step while prompts are computed, else all steps up to the next change."""
        decode_pages, timeline = self._decode_pages, self._timeline
        kv_tokens = decode_pages.kv_tokens(self.steps)
        if prompts or self._prefilling:
            seconds = self._copy_s + self._cost.seconds(
                prompts, decode_pages.count, kv_tokens, self._prompt_reads
            )
            timeline.step(self._now_s, self.steps, seconds)
        else:
            last = self._next_change()
            timeline.run(self._now_s, self.steps, last, decode_pages.count, kv_tokens, self._copy_s)
        self._copy_s = self._prompt_reads = 0.0
        self._stepping = True
        self.statistics.computed_tokens += prompts
        for sequence in self._awaiting_first_token:
            if sequence.decoding:
                sequence.first_token_s = timeline.reached_s(self.steps + 1)
        self._awaiting_first_token.clear()

    def _next_change(self) -> int:
        """The boundary at which the decoding sequences change or pages run out."""
        finish_heap = self._finish_heap
        while finish_heap and finish_heap[0][3].epoch != finish_heap[0][2]:
            heappop(finish_heap)
        last = self._submissions.step
        if finish_heap:
            last = min(last, finish_heap[0][0])
        if self._leaving:
            last = min(last, self._leaving[0][0])
        max_steps = int(last) - self.steps
        return self.steps + self._decode_pages.steps_that_fit(self.steps, self.free, max_steps)

    def _account(self) -> None:
        """Account for the steps that ended and for the pages that decoding took in them."""
        decode_pages, timeline, statistics = self._decode_pages, self._timeline, self.statistics
        steps = timeline.last - timeline.first
        pages = decode_pages.new_pages_over(self.steps, steps)
        held = self._shape.pages - self.free
        first_pages, last_pages = held + decode_pages.new_pages(self.steps), held + pages
        statistics.add(steps, self._now_s - timeline.began_s, first_pages, last_pages)
        statistics.computed_tokens += steps * decode_pages.count
        self.free -= pages

    def _finish_prefill(self, sequence: SimulatedSequence) -> None:
        """Start decoding: the whole prompt is computed, or all of it except the last token."""
        if sequence.computed == sequence.prompt_tokens + sequence.generated:
            sequence.generated += 1
            if sequence.generated == 1:
                sequence.first_token_s = self._now_s
        self._start_decoding(sequence)

    def _finished(self) -> Sequences:
        """Sequences that got their last token; each stays until the engine notices its end."""
        finish_heap = self._finish_heap
        finished: Sequences = []
        while finish_heap and finish_heap[0][0] <= self.steps:
            _, _, epoch, sequence = heappop(finish_heap)
            if sequence.epoch != epoch:
                continue
            sequence.ended = True
            if sequence.tokens == sequence.max_tokens:  # the engine knows max_tokens in advance
                self._stop_decoding(sequence)
                self.reservations.extend(sequence, sequence.tokens)
            self._leaving.append((self.steps + self._shape.ghost_steps, sequence))
            finished.append(sequence)
        return finished

    def _drain_leaving(self) -> None:
        """Remove all ended sequences: without their pages nothing can be computed.

        The engine waits until it has noticed their ends; by then all submissions have arrived.
        """
        for _, sequence in self._leaving:
            self._leave(sequence)
        self._leaving.clear()
        self.waiting.extend(self._submissions.take(inf))

    def _leave(self, sequence: SimulatedSequence) -> None:
        if sequence.arrival in self.running:
            self._release(sequence, sequence.tokens + self._shape.ghost_steps - 1)

    def _release(self, sequence: SimulatedSequence, generated: int) -> None:
        """Free a running sequence; the last step composed with it had `generated` tokens of it."""
        if sequence.decoding:
            self._stop_decoding(sequence)
        self.reservations.remove(sequence, generated)
        self.free += -(-sequence.computed // self._page_tokens)
        del self.running[sequence.arrival]
        self._start_blocked = False

    def _start_decoding(self, sequence: SimulatedSequence) -> None:
        """Decode one token in each step from now on."""
        sequence.decoding = True
        sequence.epoch += 1
        sequence.length_offset = sequence.prompt_tokens + sequence.generated - self.steps
        self._decode_pages.add(sequence.length_offset)
        self.reservations.start_decoding(sequence)
        last = self.steps + sequence.tokens - sequence.generated
        heappush(self._finish_heap, (last, sequence.arrival, sequence.epoch, sequence))
        if sequence.generated == 0:
            self._awaiting_first_token.append(sequence)

    def _stop_decoding(self, sequence: SimulatedSequence) -> None:
        """Decode no more tokens; the pages are kept."""
        sequence.generated = sequence.generated_at(self.steps)
        sequence.computed = self.steps + sequence.length_offset - 1
        sequence.decoding = False
        sequence.epoch += 1
        self._decode_pages.remove(sequence.length_offset)
        self.reservations.stop_decoding(sequence)

    def _pages_needed(self) -> int:
        """Pages for the next token of all decoding sequences; if none decodes, for a prompt."""
        if self._decode_pages.count:
            return self._decode_pages.new_pages(self.steps)
        if not self._prefilling:
            return 0
        return int(self._prefilling[0].computed % self._page_tokens == 0)

    def _preempt_for_pages(self) -> None:
        """Preempt until every next token has a page, or one alone is left."""
        self._preempt_longest()
        if self._pages_needed() > self.free:
            self._drain_leaving()

    def _preempt_longest(self) -> None:
        """Preempt by the longest expected remainder; one sequence stays."""
        decoding = [sequence for sequence in self.running.values() if sequence.decoding]
        candidates = [*decoding, *self._prefilling]
        if len(candidates) > 1:
            ranked = self._ranked(candidates)
            while len(ranked) > 1 and self._pages_needed() > self.free:
                self._preempt(self.running[ranked.pop()[1]])

    def _ranked(self, candidates: Sequences) -> list[tuple[int, int]]:
        """Expected remainders and arrival numbers of sequences; the last is preempted first."""
        running = [sequence.as_running(self.steps) for sequence in candidates]
        remainders = (
            LengthDistributions.of(running).remaining_quantile(0.5).round().astype(int).tolist()
        )
        arrivals = (sequence.arrival for sequence in candidates)
        return sorted(zip(remainders, arrivals, strict=True))

    def _preempt(self, victim: SimulatedSequence) -> None:
        """Preempt a running sequence; it resumes before new ones start."""
        if not victim.decoding:
            self._prefilling.remove(victim)
        self._release(victim, victim.generated_at(self.steps))
        if victim.ended:
            return
        if self._shape.swap_token_s is None:
            self.statistics.recomputed_tokens += victim.computed
        else:
            victim.swapped = victim.computed
            self._copy_s += victim.swapped * self._shape.swap_token_s
        victim.computed = 0
        victim.preemptions += 1
        self.statistics.preemptions += 1
        self._queue_preempted(victim)

    def _queue_preempted(self, victim: SimulatedSequence) -> None:
        insort(self.preempted, victim, key=lambda sequence: sequence.arrival)

    def _start_fitting(self) -> None:
        """Start sequences that fit, preempted ones first; the only sequence always fits."""
        while not self._start_blocked and len(self.running) < self._shape.max_interactive_sequences:
            queue = self.preempted or self.waiting
            if not queue:
                return
            sequence = queue[0]
            sequence.reserve_next()
            if self.running and not self._fits(sequence):
                self._start_blocked = True
                return
            del queue[0]
            self._start_sequence(sequence)

    def _fits(self, candidate: SimulatedSequence) -> bool:
        """Whether all reservations fit if one more sequence runs."""
        pages = -(-candidate.swapped // self._page_tokens) or 1
        if self.free < pages:
            return False
        return self.reservations.can_admit(self.running, candidate, self.steps)

    def _start_sequence(self, sequence: SimulatedSequence) -> None:
        self.running[sequence.arrival] = sequence
        self.reservations.add(sequence)
        if sequence.swapped:
            sequence.computed, sequence.swapped = sequence.swapped, 0
            self.free -= -(-sequence.computed // self._page_tokens)
            self._copy_s += sequence.computed * (self._shape.swap_token_s or 0.0)
        if sequence.prompt_tokens + sequence.generated - sequence.computed == 1:
            self._start_decoding(sequence)
        else:
            self._prefilling.append(sequence)

    def _schedule_prefill(self) -> int:
        """Fill the step with prompt tokens, in start order; returns how many."""
        budget = self._shape.step_tokens - self._decode_pages.count
        room = self.free - self._decode_pages.new_pages(self.steps)
        scheduled = visited = 0
        unfinished: Sequences = []
        for sequence in self._prefilling:
            if scheduled == budget:
                break
            visited += 1
            tokens, pages = self._chunk(sequence, budget - scheduled, room)
            room -= pages
            self.free -= pages
            self._prompt_reads += tokens * (sequence.computed + tokens / 2)
            sequence.computed += tokens
            scheduled += tokens
            pending = sequence.prompt_tokens + sequence.generated - sequence.computed
            (unfinished if pending > 1 else self._prefilled).append(sequence)
        self._prefilling[:visited] = unfinished
        if scheduled:
            self._start_blocked = False
        return scheduled

    def _chunk(self, sequence: SimulatedSequence, budget: int, room: int) -> tuple[int, int]:
        """Prompt tokens of a sequence in this step, and the new pages for them, at most `room`."""
        computed = sequence.computed
        tokens = sequence.prompt_tokens + sequence.generated - computed
        tokens = min(tokens, budget)
        held = -(-computed // self._page_tokens)
        pages = -(-(computed + tokens) // self._page_tokens) - held
        if pages > room:
            pages = room
            tokens = (held + pages) * self._page_tokens - computed
        return tokens, pages
