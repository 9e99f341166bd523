"""E4's clients, its figures, and the choice of number formats."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.e4 import run as run_file
from benchmarks.e4.closed_loop import ClosedLoop, Exchange
from benchmarks.e4.contenders import LLAMA, OURS, VLLM, Contender
from benchmarks.e4.llama_server import HOST, UNKNOWN, LlamaServers, serve
from benchmarks.e4.measures import LoadTrace, agreement
from benchmarks.e4.rows import BOUNDS, Run, bound_rows, load_rows, ratio_rows, targets
from benchmarks.e4.run import Comparison
from benchmarks.e4.workload import MAX_ANSWER, text_requests
from benchmarks.engine.floor import Peak
from benchmarks.engine.workload import Request
from benchmarks.harness.cpu_noise import CpuNoise, Meter, Reading
from benchmarks.harness.report import Report
from benchmarks.harness.retry import Measured
from engine.checkpoints.catalogue import DEMO_FOLDER


def requests(count: int, tokens: int = 2) -> list[Request]:
    return [Request(f"r{number}", [1, 2], tokens) for number in range(count)]


def clock(step_s: float = 1.0) -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += step_s


def a_trace(rate: float = 10.0, token_s: float = 0.1) -> LoadTrace:
    """One request that gets `rate` tokens in the one second in which all clients have work."""
    at_s = [1 - token_s * (rate - 1 - n) for n in range(int(rate))]
    return LoadTrace({"r0": Exchange(0.0, [7] * int(rate), at_s)}, 1.0)


def a_run(
    engine: str, *, rate: float = 10.0, clients: int = 32, round_number: int = 0, form: str = "f32"
) -> Run:
    measured = Measured(a_trace(rate, 0.01), CpuNoise(0.0, 0.0), 1)
    return Run(Contender(engine, form), clients, round_number, measured)


def test_client_sends_its_next_request_when_the_previous_one_has_ended() -> None:
    loop = ClosedLoop(requests(3))
    assert [request.id for request in loop.begin(2)] == ["r0", "r1"]
    assert not loop.received("r1", [5])
    assert loop.received("r1", [6])
    following = loop.next()
    assert following is not None
    assert following.id == "r2"
    assert loop.exchanges["r1"].tokens == [5, 6]


def test_run_is_done_when_the_last_request_has_ended() -> None:
    loop = ClosedLoop(requests(1))
    loop.begin(1)
    assert not loop.done
    loop.received("r0", [5, 6])
    assert loop.done


def test_clients_all_have_work_until_one_finds_none() -> None:
    loop = ClosedLoop(requests(1), clock().__next__)
    loop.begin(1)
    assert loop.saturated_s is None
    loop.received("r0", [5, 6])
    assert loop.next() is None
    saturated_s = loop.saturated_s
    assert loop.next() is None
    assert loop.saturated_s == saturated_s


def test_token_beyond_the_length_is_an_error() -> None:
    loop = ClosedLoop(requests(1))
    loop.begin(1)
    with pytest.raises(RuntimeError, match="more than 2 tokens"):
        loop.received("r0", [5, 6, 7])


def test_rate_counts_tokens_while_all_clients_have_work() -> None:
    exchanges = {"a": Exchange(0.0, [1, 2], [0.5, 2.0]), "b": Exchange(0.0, [1, 2], [1.0, 9.0])}
    trace = LoadTrace(exchanges, 2.0)
    assert trace.rate == 3 / 2.0
    assert trace.first_token_s == [0.5, 1.0]
    assert trace.token_s == [1.5, 8.0]


def test_answers_are_compared_by_their_beginning() -> None:
    one = LoadTrace({"a": Exchange(0.0, [1, 2, 3]), "b": Exchange(0.0, [1, 2])}, 1.0)
    other = LoadTrace({"a": Exchange(0.0, [1, 2, 4]), "b": Exchange(0.0, [9, 2])}, 1.0)
    assert agreement(one, other, 2) == 0.5


def test_ratio_is_paired_by_round_for_each_number_of_clients() -> None:
    runs = [
        a_run(engine, rate=rate, round_number=number)
        for number, ours in enumerate((20, 30))
        for engine, rate in ((OURS, ours), (VLLM, 10))
    ]
    (row,) = ratio_rows(runs)
    assert (row["ratio"], row["runs"]) == ("ours / vllm", [2.0, 3.0])


def test_every_target_is_missed_while_its_engine_is_missing() -> None:
    verdicts = targets([a_run(OURS)])
    assert len(verdicts) == len(BOUNDS)
    assert not any(verdict.met for verdict in verdicts)


def test_target_reads_the_ratio_with_the_most_clients() -> None:
    runs = [a_run(OURS, rate=12), a_run(VLLM, rate=10), a_run(VLLM, rate=99, clients=1)]
    assert [verdict.value for verdict in targets(runs)] == [1.2, None]


def test_quantized_weights_do_not_stand_for_llama_cpp() -> None:
    runs = [a_run(OURS), a_run(LLAMA, rate=10), a_run(LLAMA, rate=40, form="q4_1")]
    assert [verdict.value for verdict in targets(runs)] == [None, 1.0]
    assert len(load_rows(runs)) == 3


def test_bound_of_one_client_is_reading_all_weights() -> None:
    (row,) = bound_rows([a_run(OURS, clients=1)], 1_000_000, Peak(1.0, 1e9))
    assert row["read_ms"] == pytest.approx(4.0)
    assert row["reading"] == pytest.approx(4.0 / row["token_ms"])


class FixedServer:
    """Serves at a fixed rate, and notes its end."""

    def __init__(self, name: str, closed: list[str]) -> None:
        self._name = name
        self._closed = closed

    def serve(self, _: list[Request], __: int) -> LoadTrace:
        if self._name == "vllm bfloat16":
            raise RuntimeError("no such instructions")
        return a_trace(20.0 if "bf" in self._name else 10.0, 0.01)

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def close(self) -> None:
        self._closed.append(self._name)


@pytest.fixture
def closed() -> list[str]:
    return []


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch, closed: list[str]) -> Comparison:
    seconds = iter(range(10_000))
    monkeypatch.setattr(Meter.__init__, "__defaults__", (lambda: Reading(next(seconds), 0, 0, 0),))
    monkeypatch.setattr(run_file, "SETTLE_S", 0.0)
    monkeypatch.setattr(
        Contender, "start", lambda contender, *_: FixedServer(contender.name, closed)
    )
    report = Report("E4", look=True)
    return Comparison(report, DEMO_FOLDER, requests(96), [1, 32], 1, Peak(1.0, 1.0))


def test_each_engine_stays_in_its_fastest_format(comparison: Comparison, closed: list[str]) -> None:
    comparison.choose([OURS, VLLM, LLAMA])
    comparison.round()
    present = {run.contender.name for run in comparison.runs}
    assert present == {"ours bfloat16", "vllm float32", "llama.cpp bf16", "llama.cpp q4_1"}
    assert closed == [
        "ours float32", "vllm bfloat16", "llama.cpp f16", "llama.cpp f32"
    ]  # fmt: skip
    assert len(comparison.runs) == 2 * len(present)


def test_engine_without_a_target_takes_part_in_the_first_rounds_alone(
    comparison: Comparison,
) -> None:
    comparison.choose([LLAMA])
    for _ in range(4):
        comparison.round()
    rounds = {(run.contender.format, run.round) for run in comparison.runs}
    assert rounds == {("bf16", n) for n in range(4)} | {("q4_1", n) for n in range(2)}


def test_all_servers_end_with_the_comparison(comparison: Comparison, closed: list[str]) -> None:
    with comparison:
        comparison.choose([OURS])
    assert sorted(closed) == ["ours bfloat16", "ours float32"]


async def answered_by(sent: list[list[int]]) -> list[list[int]]:
    """The tokens noted for three requests if a llama-server sends these of three, then the end."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        asked = json.loads(await reader.readexactly(length))
        assert (asked["n_predict"], asked["cache_prompt"]) == (3, False)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        end = {"tokens": [], "stop": True, "tokens_predicted": 3}
        for part in [*({"tokens": tokens, "stop": False} for tokens in sent), end]:
            writer.write(b"data: " + json.dumps(part).encode() + b"\n\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        trace = await serve(port, requests(3, tokens=3), 2)
    return [exchange.tokens for exchange in trace.exchanges.values()]


MOST_SLOTS = 8
SLOTS_SERVER = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if int(options["--parallel"]) > {most_slots}:
    sys.exit("too many slots")

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        part = {{"tokens": [int(options["--parallel"])], "stop": False}}
        self.wfile.write(b"data: " + json.dumps(part).encode() + b"\\n")

HTTPServer((options["--host"], int(options["--port"])), Answer).serve_forever()
"""


@pytest.fixture
def slots_server(tmp_path: Path) -> Path:
    """A program with llama-server's options that answers with its number of slots."""
    binary = tmp_path / "server"
    binary.write_text(SLOTS_SERVER.format(python=sys.executable, most_slots=MOST_SLOTS))
    binary.chmod(0o700)
    return binary


def test_clients_are_served_by_the_llama_server_with_as_many_slots(slots_server: Path) -> None:
    servers = LlamaServers("test", slots_server, Path("x.gguf"), clients=[1, 3], threads=1)
    try:
        servers.pause()
        servers.resume()
        for clients in (1, 3):
            trace = servers.serve(requests(2, tokens=1), clients)
            assert [exchange.tokens for exchange in trace.exchanges.values()] == [[clients]] * 2
    finally:
        servers.close()


def test_llama_servers_that_started_end_if_one_does_not_start(slots_server: Path) -> None:
    before = psutil.Process().children()
    with pytest.raises(RuntimeError, match="did not start"):
        LlamaServers("test", slots_server, Path("x.gguf"), clients=[1, MOST_SLOTS + 1], threads=1)
    assert psutil.Process().children() == before


async def test_tokens_of_llama_server_are_noted_as_they_arrive() -> None:
    assert await answered_by([[4], [5], [6]]) == [[4, 5, 6]] * 3


async def test_tokens_that_llama_server_holds_back_are_counted() -> None:
    assert await answered_by([[4], [6]]) == [[4, 6, UNKNOWN]] * 3


def test_requests_are_the_texts_as_chats_with_the_lengths_of_their_answers(tmp_path: Path) -> None:
    lines = [
        {"app": "a", "instruction": "reverse", "input": "x", "output": output, "split": split}
        for output, split in (("a b", "valid"), ("word " * 2000, "valid"), ("c", "train"))
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = text_requests(tmp_path, DEMO_FOLDER, 10)
    assert len(found) == 2
    lengths = sorted(request.tokens for request in found)
    assert 1 <= lengths[0] < 10
    assert lengths[1] == MAX_ANSWER
    assert found[0].prompt == found[1].prompt
