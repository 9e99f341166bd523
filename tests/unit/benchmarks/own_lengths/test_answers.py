"""Answers that are asked for, from a small server in place of a gateway."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from benchmarks.own_lengths.answers import Conversation, ask_all, repeats
from benchmarks.own_lengths.choice import asks
from benchmarks.own_lengths.lengths_file import OwnLength
from gateway.evaluation.corpus import CorpusLine

LINES = [
    CorpusLine(app="echo", instruction="repeat", input=f"{n} {n}", output="x") for n in range(5)
]


@contextmanager
def a_server(bodies: list[dict[str, Any]], status: int) -> Iterator[str]:
    """Answers each chat request with as many tokens as its input has words."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body)
            words = body["messages"][1]["content"].split()
            answer = {
                "choices": [{"message": {"content": "so"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 20, "completion_tokens": len(words)},
            }
            with suppress(BrokenPipeError):  # clients of a run that has stopped are gone
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def ask(bodies: list[dict[str, Any]], status: int = 200) -> list[OwnLength]:
    kept: list[OwnLength] = []
    with a_server(bodies, status) as url:
        where = Conversation(url, "small", lambda text: len(text.split()))
        asyncio.run(ask_all(where, asks(LINES), 3, kept.append))
    return kept


def test_every_answer_is_kept_once_with_its_tokens() -> None:
    found = ask([])
    assert sorted(each.key for each in found) == sorted(each.key for each in asks(LINES))
    assert {(each.input_tokens, each.answer_tokens, each.finish) for each in found} == {
        (2, 2, "stop")
    }


def test_instruction_is_the_system_message_and_only_greedy_answers_are_cold() -> None:
    bodies: list[dict[str, Any]] = []
    ask(bodies)
    assert {body["messages"][0]["content"] for body in bodies} == {"repeat"}
    assert sorted(body["temperature"] for body in bodies) == [0.0] * 5 + [0.7] * 25
    assert len({body["seed"] for body in bodies}) == 30


def test_answers_of_other_forms_are_asked_for_as_clients_do() -> None:
    bodies: list[dict[str, Any]] = []
    ask(bodies)
    forms = Counter(
        (body.get("tool_choice"), "response_format" in body, "tools" in body) for body in bodies
    )
    assert forms == {
        (None, False, False): 15,
        (None, True, False): 5,
        ("required", False, True): 5,
        ("auto", False, True): 5,
    }


def test_failed_answer_stops_the_run() -> None:
    with pytest.raises(ExceptionGroup) as stopped:
        ask([], status=500)
    failures = [str(each) for each in stopped.value.exceptions]
    assert set(failures) == {failures[0]}
    assert failures[0].startswith("an answer of echo failed")


def test_answer_repeats_if_its_end_was_said_before() -> None:
    loop = "the cat sat on the mat and "
    assert repeats(loop * 5)
    assert not repeats("".join(f"{number} is a number. " for number in range(30)))
    assert not repeats("short " * 2)
