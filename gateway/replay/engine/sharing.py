"""A simulated engine with continuous batching in which equal prefixes are kept and computed once.

It follows the engine's prefix tree page by page. A prompt reads the pages of its prefix that others
have computed, even in the same step; what is released stays until its memory is needed, the least
recently used first, from the end of a prompt.
"""

from gateway.replay.cost.model import EngineModel
from gateway.replay.engine.continuous import ContinuousEngine
from gateway.replay.engine.prefix_pages import PageCache, PrefixPages
from gateway.replay.engine.sequence import SimulatedSequence
from gateway.scheduling.requests import SharedPrefix


class SharingEngine(ContinuousEngine):
    """The memory of an engine with shared prefixes; subclasses compose its steps.

    `free` includes the pages in the cache. Sequences of one prefix share nothing beyond it.
    """

    def __init__(self, model: EngineModel) -> None:
        super().__init__(model)
        self.prefixes: dict[str, PrefixPages] = {}
        self.cache = PageCache()
        self._shared_pages = 0  # of all prefixes
        self._decode_claim = 0  # pages for the step's decoding sequences, part of `free`
        self._clock = 0
        self._prompt_tokens = 0  # of the step that is composed
        self._chunks: dict[int, int] = {}  # prompt tokens in that step, by arrival number

    def check(self) -> None:
        """AssertionError unless each page is counted once; for tests."""
        self.cache.check()
        private = sum(
            -(-self._computed(sequence) // self._page_tokens) - sequence.prefix_pages
            for sequence in self.running.values()
        )
        retained = sum(prefix.retained for prefix in self.prefixes.values())
        assert self.free == self._shape.pages - private - retained
        assert 0 <= self.cache.pages <= self.free
        assert self._shared_pages == sum(prefix.shared for prefix in self.prefixes.values())

    def _finished(self) -> list[SimulatedSequence]:
        finished = super()._finished()
        if len(finished) > 1:  # pages are released in the order of the step's rows
            leaving = [self._leaving.pop() for _ in finished]
            place = {arrival: number for number, arrival in enumerate(self.running)}
            leaving.sort(key=lambda each: self._row_order(each[1], place))
            self._leaving.extend(leaving)
        return finished

    def _row_order(
        self, sequence: SimulatedSequence, place: dict[int, int]
    ) -> tuple[bool, bool, int]:
        """Where a sequence stands in a step: chunks of a single token first."""
        arrival = sequence.arrival
        return self._chunks.get(arrival, 1) > 1, sequence.background, place[arrival]

    def _account(self) -> None:
        self._decode_claim = 0
        steps = self._timeline.last - self._timeline.first
        self._evict_for(self._decode_pages.new_pages_over(self.steps, steps))
        super()._account()

    def _compute_prompt(self, sequence: SimulatedSequence, budget: int) -> int:
        """Compute at most `budget` tokens of a prompt; returns how many."""
        self._adopt(sequence)
        if _pending(sequence) == 1:
            return self._decode_at_once(sequence)
        tokens, pages = self._chunk(sequence, budget, self.free - self._decode_claim)
        if not tokens:
            return 0
        self._take_pages(pages)
        self._prompt_reads += tokens * (sequence.computed + tokens / 2)
        sequence.computed += tokens
        sequence.known_tokens = sequence.prompt_tokens + sequence.generated
        self._share_computed(sequence)
        if _pending(sequence) <= 1:
            self._prefilling.remove(sequence)
            self._prefilled.append(sequence)
        self._prompt_tokens += tokens
        self._chunks[sequence.arrival] = tokens
        self._computed_for_others(sequence, tokens)
        return tokens

    def _decode_at_once(self, sequence: SimulatedSequence) -> int:
        """Only the last token of a prompt is not shared; returns 1 if it has a page."""
        if self.free - self._decode_claim < 1:
            return 0
        self._prefilling.remove(sequence)
        self._start_decoding(sequence)
        self._claim_decode_pages()
        self._computed_for_others(sequence, 1)
        return 1

    def _computed_for_others(self, sequence: SimulatedSequence, tokens: int) -> None:
        """The next sequence may share what this one has computed."""
        if tokens > 1 or not sequence.background:
            self._start_blocked = False

    def _adopt(self, sequence: SimulatedSequence) -> None:
        """Share the pages of its prefix that others have computed in the meantime."""
        prefix = self._prefix_of(sequence)
        if prefix is None or not sequence.cacheable:
            return
        if sequence.computed != sequence.prefix_pages * self._page_tokens:
            return  # it is past the prefix, or within a page
        pages = min(prefix.present, self._most_shared(sequence))
        if pages > sequence.prefix_pages:
            if not sequence.preemptions:
                gained = pages - sequence.prefix_pages
                sequence.reused_tokens += gained * self._page_tokens
            self._read(sequence, prefix, pages)
            sequence.computed = pages * self._page_tokens

    def _share_computed(self, sequence: SimulatedSequence) -> None:
        """Share the full pages of its prefix that a sequence has computed."""
        prefix = self._prefix_of(sequence)
        if prefix is None or not sequence.cacheable:
            return
        pages = min(sequence.computed // self._page_tokens, prefix.pages)
        if pages > sequence.prefix_pages:
            if prefix.present > sequence.prefix_pages:  # another one has computed this page
                sequence.cacheable = False
                return
            self._read(sequence, prefix, pages, present=pages)

    def _start_sequence(self, sequence: SimulatedSequence) -> None:
        self.running[sequence.arrival] = sequence
        self.reservations.add(sequence)
        sequence.cacheable = True
        self._attach(sequence)
        if sequence.swapped > sequence.computed:
            held = sequence.computed
            self._take_pages(-(-sequence.swapped // self._page_tokens) - held // self._page_tokens)
            self._copy_s += (sequence.swapped - held) * (self._shape.swap_token_s or 0.0)
            sequence.computed = sequence.swapped
        sequence.swapped = 0
        sequence.known_tokens = sequence.prompt_tokens + sequence.generated
        if _pending(sequence) == 1:
            self._start_decoding(sequence)
        else:
            self._prefilling.append(sequence)

    def _attach(self, sequence: SimulatedSequence) -> None:
        """Read what is cached of a starting sequence: of its prefix, then of its own pages."""
        prefix, own = self._prefix_of(sequence), sequence.cached_pages
        whole = True
        if prefix is not None:
            prefix.members[sequence.arrival] = sequence
            self._adopt(sequence)
            whole = sequence.prefix_pages == prefix.pages
        if own is not None and own.count and whole:
            most = (sequence.prompt_tokens + sequence.generated - 1) // self._page_tokens
            pages = min(own.count, most - sequence.prefix_pages)
            self.cache.take(own, pages)
            self.free -= pages
            sequence.computed += pages * self._page_tokens
        sequence.cached_pages = None
        if sequence.preemptions and not sequence.swapped:
            self.statistics.recomputed_tokens -= min(sequence.computed, sequence.lost_tokens)

    def _release(self, sequence: SimulatedSequence, generated: int) -> None:
        if sequence.decoding:
            self._stop_decoding(sequence)
        self.reservations.remove(sequence, generated)
        sequence.shared_pages = 0
        pages, own = self._cacheable_pages(sequence)
        self.free += -(-sequence.computed // self._page_tokens) - pages
        if own:
            cached = self.cache.add(own)
            sequence.cached_pages = None if sequence.ended else cached
        prefix = self._prefix_of(sequence)
        if prefix is not None:
            del prefix.members[sequence.arrival]
            self._read(sequence, prefix, 0)
            if prefix.empty and sequence.prefix is not None:
                del self.prefixes[sequence.prefix.id]
        sequence.lost_tokens = sequence.computed
        del self.running[sequence.arrival]
        self._start_blocked = False

    def _cacheable_pages(self, sequence: SimulatedSequence) -> tuple[int, int]:
        """The pages of its prefix that a sequence reads, and its own full ones to keep after them.

        A page is kept once its last token is known: one step after it was computed.
        """
        pages = sequence.prefix_pages
        prefix = self._prefix_of(sequence)
        if not sequence.cacheable or (prefix is not None and pages < prefix.pages):
            return pages, 0
        late = sequence.computed > sequence.known_tokens
        return pages, (sequence.computed - late) // self._page_tokens - pages

    def _fits(self, candidate: SimulatedSequence) -> bool:
        if self.free < (-(-candidate.swapped // self._page_tokens) or 1):
            return False
        prefix = self._prefix_of(candidate)
        if prefix is not None:
            candidate.shared_pages = min(prefix.retained, self._most_shared(candidate))
        fits = self.reservations.can_admit(self.running, candidate, self.steps, self._shared_pages)
        candidate.shared_pages = 0
        return fits

    def _most_shared(self, sequence: SimulatedSequence) -> int:
        """The pages of its prefix that a sequence may share: a token is left to compute."""
        assert sequence.prefix is not None
        last = sequence.prompt_tokens + sequence.generated - 1
        return min(sequence.prefix.tokens, last) // self._page_tokens

    def _prefix_of(self, sequence: SimulatedSequence) -> PrefixPages | None:
        return None if sequence.prefix is None else self._prefix(sequence.prefix)

    def _prefix(self, prefix: SharedPrefix) -> PrefixPages:
        pages = self.prefixes.get(prefix.id)
        if pages is None:
            pages = self.prefixes[prefix.id] = PrefixPages(prefix.tokens // self._page_tokens)
        return pages

    def _read(
        self,
        sequence: SimulatedSequence,
        prefix: PrefixPages,
        pages: int,
        present: int | None = None,
    ) -> None:
        """A sequence reads this number of a prefix's pages, of which `present` are there now."""
        unread = prefix.unread
        prefix.present = max(prefix.present, present or 0)
        prefix.read(sequence, pages)
        self._clock += 1
        prefix.used = self._clock
        self._settle_prefix(prefix, unread)
        if sequence.arrival in prefix.members:
            self.reservations.share(sequence, min(pages, prefix.shared))

    def _settle_prefix(self, prefix: PrefixPages, unread: int) -> None:
        """Count the pages of a prefix that are unread or shared now; `unread` were before."""
        self.free += prefix.move(unread, self.cache)
        shared = prefix.shared_now()
        if shared != prefix.shared:
            self._shared_pages += shared - prefix.shared
            prefix.shared = shared
            for member in prefix.members.values():
                self.reservations.share(member, min(member.prefix_pages, shared))

    def _claim_decode_pages(self) -> None:
        """Set pages apart for the next token of each decoding sequence."""
        self._decode_claim = self._decode_pages.new_pages(self.steps)
        self._evict_for(self._decode_claim)

    def _take_pages(self, pages: int) -> None:
        """Assign pages; cached ones are evicted for them."""
        self._evict_for(pages + self._decode_claim)
        self.free -= pages

    def _evict_for(self, pages: int) -> None:
        """Evict until this number of pages is neither assigned nor cached."""
        missing = pages - (self.free - self.cache.pages)
        if missing > 0:
            self.cache.evict(missing)

    def _computed(self, sequence: SimulatedSequence) -> int:
        if sequence.decoding:
            return self.steps + sequence.length_offset - 1
        return sequence.computed


def _pending(sequence: SimulatedSequence) -> int:
    """Tokens not computed yet."""
    return sequence.prompt_tokens + sequence.generated - sequence.computed
