"""Steps of a server, counted by the tokens that its streams deliver."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import Sequence
from gateway.engines.upstream.sequence_stream import SequenceStream
from gateway.engines.upstream.step_counter import CountedSteps, StepCounter

STEP_S = 0.5
PROMPT = 10


def a_stream(name: str, at_once: int = 1) -> SequenceStream:
    stream = SequenceStream(Sequence(name, [5] * PROMPT, max_tokens=1_000, reserve=1), 0)
    stream.at_once = at_once
    return stream


@dataclass
class Server:
    """Gives each stream a token in every step, and delivers them as each stream asks."""

    counter: StepCounter = field(default_factory=StepCounter)
    now_s: float = 0.0
    running: dict[SequenceStream, int] = field(default_factory=dict)  # tokens generated
    starting: list[SequenceStream] = field(default_factory=list)
    counted: list[CountedSteps] = field(default_factory=list)

    def start(self, name: str, at_once: int | None = None) -> SequenceStream:
        others = [*self.running, *self.starting]
        if not others:
            self.counter.begin(self.now_s)
        stream = a_stream(name, self.counter.at_once(others) if at_once is None else at_once)
        self.starting.append(stream)
        return stream

    def step(self, ends: frozenset[str] = frozenset()) -> None:
        """One step of the server; of streams that end, everything is delivered."""
        self.now_s += STEP_S
        first, self.starting = self.starting, []
        self.running |= dict.fromkeys(first, 0)
        grown: list[SequenceStream] = []
        for stream in self.running:
            self.running[stream] += 1
            due = self.running[stream] - len(stream.held)
            if stream in first or due >= stream.at_once or stream.sequence.id in ends:
                stream.fresh = [7] * due
                stream.held += stream.fresh
                grown.append(stream)
        self.running = {
            stream: count
            for stream, count in self.running.items()
            if stream.sequence.id not in ends
        }
        if not grown:
            return
        counted = self.counter.count(self.now_s, grown, first, list(self.running))
        for stream in grown:
            stream.take()
        self.counted += [counted] if counted else []

    @property
    def steps(self) -> int:
        return sum(each.steps for each in self.counted)


events = st.lists(
    st.tuples(st.integers(0, 2), st.sets(st.integers(0, 40), max_size=3)), min_size=5, max_size=80
)


@given(events)
def test_steps_are_counted_one_by_one_while_a_stream_delivers_each_token(
    given_events: list[tuple[int, set[int]]],
) -> None:
    server = Server()
    server.start("each")
    names = iter(range(10_000))
    rows = prompts = 0
    for starts, ends in given_events:
        rows += len(server.running)
        prompts += PROMPT * len(server.starting)
        server.step(frozenset(map(str, ends)))
        for _ in range(starts):
            server.start(str(next(names)))
    assert [each.steps for each in server.counted] == [1] * len(given_events)
    assert {each.took_s for each in server.counted} == {STEP_S}
    assert sum(each.work.sequences for each in server.counted) == rows
    assert sum(each.work.prompt_tokens for each in server.counted) == prompts


@given(events, st.integers(2, 16))
def test_tokens_that_come_together_count_as_their_steps(
    given_events: list[tuple[int, set[int]]], at_once: int
) -> None:
    server = Server()
    server.start("first", at_once)
    names = iter(range(10_000))
    for starts, ends in given_events:
        server.step(frozenset(map(str, ends)))
        for _ in range(max(starts, not server.running)):
            server.start(str(next(names)), at_once)
    server.step(frozenset(stream.sequence.id for stream in [*server.running, *server.starting]))
    assert server.steps == len(given_events) + 1
    assert sum(each.took_s for each in server.counted) == server.now_s
    assert all(each.steps > 0 for each in server.counted)


def test_lone_stream_shows_every_step() -> None:
    server = Server()
    server.start("a", 16)
    for _ in range(33):
        server.step()
    assert [each.steps for each in server.counted] == [1, 16, 16]
    assert [each.took_s / each.steps for each in server.counted] == [STEP_S] * 3
    assert [each.work.sequences for each in server.counted] == [0, 16, 16]


def test_first_tokens_that_come_at_the_same_time_are_of_as_many_steps() -> None:
    counter, stream = StepCounter(), a_stream("a")
    counter.begin(0.0)
    stream.fresh = stream.held = [7, 7, 7]
    found = counter.count(1.5, [stream], [stream], [stream])
    assert found is not None
    assert (found.steps, found.took_s, found.work.prompt_tokens) == (3, 1.5, PROMPT)


def test_stream_that_starts_between_two_deliveries_is_placed_by_time() -> None:
    server = Server()
    server.start("together", 16)
    for _ in range(17 + 7):
        server.step()
    server.start("each", 1)
    for _ in range(9):
        server.step()
    assert [each.steps for each in server.counted] == [1, 16, 9, 1, 1, 1, 1, 1, 1, 1]
    assert [each.took_s / each.steps for each in server.counted] == [STEP_S] * 10


def test_time_without_work_is_of_no_step() -> None:
    server = Server()
    server.start("a")
    server.step()
    server.step(frozenset("a"))
    server.now_s += 60.0
    server.start("b")
    server.step()
    assert [(each.steps, each.took_s) for each in server.counted] == [(1, STEP_S)] * 3


def test_work_is_of_all_that_run_and_not_of_those_that_deliver() -> None:
    server = Server()
    server.start("each", 1)
    for name in "bcd":
        server.start(name, 16)
    server.step()
    server.step()
    assert (server.counted[-1].steps, server.counted[-1].work.sequences) == (1, 4)
    assert server.counted[-1].work.kv_tokens == 4 * PROMPT + 1 + 1 + 3


def test_late_token_is_no_step_of_its_own() -> None:
    counter, one, other = StepCounter(), a_stream("one"), a_stream("other")

    def deliver(now_s: float, *streams: SequenceStream, first: bool = False) -> int:
        for stream in streams:
            stream.fresh = [7]
        found = counter.count(now_s, streams, streams if first else (), [one, other])
        for stream in streams:
            stream.take()
        return found.steps if found else 0

    counter.begin(0.0)
    assert deliver(0.5, one, other, first=True) == 1
    assert deliver(1.0, one) == 1
    assert deliver(1.003, other) == 0
    assert deliver(1.5, one, other) == 1


def test_resumed_stream_does_not_set_the_count_back() -> None:
    server = Server()
    stalled, going = server.start("stalled", 1), server.start("going", 1)
    server.step()
    del server.running[stalled]
    for _ in range(5):
        server.step()
    server.running[stalled] = 1
    server.step()
    assert server.steps == 7
    assert (stalled.step, going.step) == (7, 7)


def test_tokens_on_the_way_are_those_since_the_last_delivery() -> None:
    server = Server()
    server.start("each", 1)
    together = server.start("together", 4)
    seen = []
    for _ in range(9):
        server.step()
        seen.append(server.counter.on_the_way(together))
    assert seen == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_one_of_the_streams_delivers_each_token() -> None:
    server = Server()
    first = server.start("first")
    assert first.at_once == 1, "the pace is not known yet"
    server.step()
    second = server.start("second")
    assert second.at_once > 1
    server.step(frozenset({"first"}))
    assert server.start("third").at_once == 1
    assert server.start("fourth").at_once > 1


def test_tokens_of_a_slow_server_come_together_for_a_second_at_most() -> None:
    def at_once(step_s: float) -> int:
        counter, stream = StepCounter(), a_stream("a")
        counter.begin(0.0)
        stream.fresh = [7]
        counter.count(step_s, [stream], [stream], [stream])
        return counter.at_once([stream])

    assert [at_once(step_s) for step_s in (0.01, 0.2, 0.6, 3.0)] == [16, 5, 1, 1]
