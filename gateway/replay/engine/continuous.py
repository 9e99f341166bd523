"""A simulated engine that batches by iteration, from event to event.

The rules of the engine's composer: all running sequences decode, then prompts fill the
step; sequences start in submit order while all reservations can be kept, a lone one always; where
pages lack, the one thought to run longest is preempted. While nothing changes, all decode a token
a step: any number of such steps is one event.
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
    """Iteration-level batching with paged memory, reservations and preemption.

    A sequence prefills, then decodes; once ended it stays for as long as the real engine does not
    know. `free` pages are as of the last boundary.
    """

    def __init__(self, model: EngineModel) -> None:
        super().__init__(model)
        self._page_tokens = model.shape.page_tokens
        self.free = model.shape.pages
        self.waiting: deque[SimulatedSequence] = deque()
        self.preempted: Sequences = []  # in order of arrival
        self.running: dict[int, SimulatedSequence] = {}  # by arrival, in the order they started
        self.promises = Reservations(model.shape.pages, model.shape.page_tokens)
        self._growth = DecodePages(model.shape.page_tokens)
        self._prefilling: Sequences = []
        self._prefilled: Sequences = []  # with the step under way, but for a last token at most
        self._first: Sequences = []  # their first token comes with the next step
        self._finishes: list[tuple[int, int, int, SimulatedSequence]] = []
        self._leaving: deque[tuple[int, SimulatedSequence]] = deque()
        self._full = False  # the next one does not fit, and no memory was freed since
        self._copy_s = 0.0  # before the next step
        self._prompt_reads = 0.0  # in the next step

    def pages_at(self, at_s: float) -> int:
        """Pages held at a time up to `next_s`."""
        held = self._shape.pages - self.free
        if not self._under_way:
            return held
        steps = max(self._timeline.boundary(at_s) - self.steps, 1)
        return held + self._growth.taken(self.steps, steps)

    def _stepped(self) -> Sequences:
        self._account()
        self.steps = self._timeline.last
        for sequence in self._prefilled:
            self._draw_first(sequence)
        self._prefilled.clear()
        return self._finished()

    def _begin_steps(self) -> None:
        while self._leaving and self._leaving[0][0] <= self.steps:
            self._leave(self._leaving.popleft()[1])
        prompts = self._prepare()
        while not (prompts or self._growth.count) and self._leaving:
            self._dismiss()
            prompts = self._prepare()
        if prompts or self._growth.count:
            self._begin(prompts)

    def _prepare(self) -> int:
        """Preempt, start and give out pages for the next step; the prompt tokens it computes."""
        self.waiting.extend(self._orders.take(self.steps))
        if not (self.running or self.preempted or self.waiting):
            self.waiting.extend(self._orders.take(inf))
        if self._missing() > self.free:
            self._make_room()
        if self.waiting or self.preempted:
            self._start()
        return self._fill() if self._prefilling else 0

    def _begin(self, prompts: int) -> None:
        """Steps as prepared: a single one while prompts are computed, else to the next change."""
        growth, timeline = self._growth, self._timeline
        kv_tokens = growth.kv_tokens(self.steps)
        if prompts or self._prefilling:
            seconds = self._copy_s + self._cost.seconds(
                prompts, growth.count, kv_tokens, self._prompt_reads
            )
            timeline.step(self._now_s, self.steps, seconds)
        else:
            last = self._next_change()
            timeline.run(self._now_s, self.steps, last, growth.count, kv_tokens, self._copy_s)
        self._copy_s = self._prompt_reads = 0.0
        self._under_way = True
        self.work.computed_tokens += prompts
        for sequence in self._first:
            if sequence.decoding:
                sequence.first_token_s = timeline.reached_s(self.steps + 1)
        self._first.clear()

    def _next_change(self) -> int:
        """The boundary at which what decodes changes, or finds no page."""
        finishes = self._finishes
        while finishes and finishes[0][3].spell != finishes[0][2]:
            heappop(finishes)
        last = self._orders.step
        if finishes:
            last = min(last, finishes[0][0])
        if self._leaving:
            last = min(last, self._leaving[0][0])
        most = int(last) - self.steps
        return self.steps + self._growth.steps_within(self.steps, self.free, most)

    def _account(self) -> None:
        """Add up the steps that ended, and take the pages that decoding took in them."""
        growth, timeline, work = self._growth, self._timeline, self.work
        steps = timeline.last - timeline.first
        pages = growth.taken(self.steps, steps)
        held = self._shape.pages - self.free
        first_pages, last_pages = held + growth.due(self.steps), held + pages
        work.add(steps, self._now_s - timeline.began_s, first_pages, last_pages)
        work.computed_tokens += steps * growth.count
        self.free -= pages

    def _draw_first(self, sequence: SimulatedSequence) -> None:
        """A prompt was computed, or all of it but the last token: from now on it decodes."""
        if sequence.computed == sequence.prompt_tokens + sequence.generated:
            sequence.generated += 1
            if sequence.generated == 1:
                sequence.first_token_s = self._now_s
        self._decode(sequence)

    def _finished(self) -> Sequences:
        """Sequences that got their last token; they stay until the engine knows of it."""
        finishes = self._finishes
        finished: Sequences = []
        while finishes and finishes[0][0] <= self.steps:
            _, _, spell, sequence = heappop(finishes)
            if sequence.spell != spell:
                continue
            sequence.ended = True
            if sequence.tokens == sequence.max_tokens:  # that much the engine did know
                self._halt(sequence)
                self.promises.outgrow(sequence, sequence.tokens)
            self._leaving.append((self.steps + self._shape.ghost_steps, sequence))
            finished.append(sequence)
        return finished

    def _dismiss(self) -> None:
        """Nothing can be computed until those that ended are gone: the engine waits for that.

        By then it has all orders that have come in.
        """
        for _, sequence in self._leaving:
            self._leave(sequence)
        self._leaving.clear()
        self.waiting.extend(self._orders.take(inf))

    def _leave(self, sequence: SimulatedSequence) -> None:
        if sequence.arrival in self.running:
            self._release(sequence, sequence.tokens + self._shape.ghost_steps - 1)

    def _release(self, sequence: SimulatedSequence, generated: int) -> None:
        """Free all of a running sequence, which a step was last composed with at that length."""
        if sequence.decoding:
            self._halt(sequence)
        self.promises.remove(sequence, generated)
        self.free += -(-sequence.computed // self._page_tokens)
        del self.running[sequence.arrival]
        self._full = False

    def _decode(self, sequence: SimulatedSequence) -> None:
        """From now on it gets a token every step."""
        sequence.decoding = True
        sequence.spell += 1
        sequence.lead = sequence.prompt_tokens + sequence.generated - self.steps
        self._growth.add(sequence.lead)
        self.promises.decode(sequence)
        last = self.steps + sequence.tokens - sequence.generated
        heappush(self._finishes, (last, sequence.arrival, sequence.spell, sequence))
        if sequence.generated == 0:
            self._first.append(sequence)

    def _halt(self, sequence: SimulatedSequence) -> None:
        """It gets no more tokens, and keeps its memory."""
        sequence.generated = sequence.generated_at(self.steps)
        sequence.computed = self.steps + sequence.lead - 1
        sequence.decoding = False
        sequence.spell += 1
        self._growth.remove(sequence.lead)
        self.promises.halt(sequence)

    def _missing(self) -> int:
        """Pages that the next tokens need, or the first prompt where none decodes."""
        if self._growth.count:
            return self._growth.due(self.steps)
        if not self._prefilling:
            return 0
        return int(self._prefilling[0].computed % self._page_tokens == 0)

    def _make_room(self) -> None:
        """Preempt until there is a page for every next token, the longest remainder first."""
        decoding = [sequence for sequence in self.running.values() if sequence.decoding]
        candidates = [*decoding, *self._prefilling]
        if len(candidates) > 1:
            known = [sequence.known(self.steps) for sequence in candidates]
            remainders = (
                LengthDistributions.of(known).remaining_quantile(0.5).round().astype(int).tolist()
            )
            arrivals = (sequence.arrival for sequence in candidates)
            ranked = sorted(zip(remainders, arrivals, strict=True))
            while len(ranked) > 1 and self._missing() > self.free:
                self._suspend(self.running[ranked.pop()[1]])
        if self._missing() > self.free:
            self._dismiss()

    def _suspend(self, victim: SimulatedSequence) -> None:
        """Take a running sequence's memory; it resumes before others start."""
        if not victim.decoding:
            self._prefilling.remove(victim)
        self._release(victim, victim.generated_at(self.steps))
        if victim.ended:
            return
        if self._shape.swap_token_s is None:
            self.work.recomputed_tokens += victim.computed
        else:
            victim.swapped = victim.computed
            self._copy_s += victim.swapped * self._shape.swap_token_s
        victim.computed = 0
        victim.preemptions += 1
        self.work.preemptions += 1
        insort(self.preempted, victim, key=lambda sequence: sequence.arrival)

    def _start(self) -> None:
        """Start what fits, preempted ones first; whoever would run alone fits."""
        while not self._full and len(self.running) < self._shape.most_sequences:
            queue = self.preempted or self.waiting
            if not queue:
                return
            sequence = queue[0]
            least = min(sequence.generated + 1, sequence.max_tokens)
            sequence.reserved = max(sequence.reserved, least)
            if self.running and not self._fits(sequence):
                self._full = True
                return
            del queue[0]
            self._run(sequence)

    def _fits(self, newcomer: SimulatedSequence) -> bool:
        """Whether all reservations can be kept if one more sequence runs."""
        wanted = -(-newcomer.swapped // self._page_tokens) or 1
        return self.free >= wanted and self.promises.keep(self.running, newcomer, self.steps)

    def _run(self, sequence: SimulatedSequence) -> None:
        self.running[sequence.arrival] = sequence
        self.promises.add(sequence)
        if sequence.swapped:
            sequence.computed, sequence.swapped = sequence.swapped, 0
            self.free -= -(-sequence.computed // self._page_tokens)
            self._copy_s += sequence.computed * (self._shape.swap_token_s or 0.0)
        if sequence.prompt_tokens + sequence.generated - sequence.computed == 1:
            self._decode(sequence)
        else:
            self._prefilling.append(sequence)

    def _fill(self) -> int:
        """Give prompts what is left of the step, in the order they started; the tokens given."""
        budget = self._shape.step_tokens - self._growth.count
        room = self.free - self._growth.due(self.steps)
        given = seen = 0
        left: Sequences = []
        for sequence in self._prefilling:
            if given == budget:
                break
            seen += 1
            tokens, pages = self._chunk(sequence, budget - given, room)
            room -= pages
            self.free -= pages
            self._prompt_reads += tokens * (sequence.computed + tokens / 2)
            sequence.computed += tokens
            given += tokens
            pending = sequence.prompt_tokens + sequence.generated - sequence.computed
            (left if pending > 1 else self._prefilled).append(sequence)
        self._prefilling[:seen] = left
        if given:
            self._full = False
        return given

    def _chunk(self, sequence: SimulatedSequence, budget: int, room: int) -> tuple[int, int]:
        """Tokens of a prompt that the step takes, and the pages of `room` that they need."""
        computed = sequence.computed
        tokens = sequence.prompt_tokens + sequence.generated - computed
        tokens = min(tokens, budget)
        held = -(-computed // self._page_tokens)
        pages = -(-(computed + tokens) // self._page_tokens) - held
        if pages > room:
            pages = room
            tokens = (held + pages) * self._page_tokens - computed
        return tokens, pages
