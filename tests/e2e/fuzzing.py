"""Random JSON values, and what holds for the answer to any of them."""

import random
from typing import Any

import httpx

MAX_MESSAGE = 600  # characters
TEXTS = ["", "king", "\0", "é\u2028😀", "0", "true", "x" * 5000, "-1", "nan", "auto", "text"]
NUMBERS = [0, 1, -1, 2, 5.0, 0.5, 1e-300, -0.0, 1e308, 10**23, 2**63 - 1, -(2**63), 2**64]
SMALL = [None, True, False, 0, 1, 0.01, 2, -1, 1e-9, 1e-300]


def a_value(rng: random.Random, depth: int = 0) -> Any:
    """A JSON value, at most three levels deep."""
    kind = rng.randrange(6 if depth < 3 else 4)
    if kind <= 3:
        return rng.choice([rng.choice(TEXTS), rng.choice(NUMBERS), rng.choice(SMALL)])
    items = [a_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return items if kind == 4 else {rng.choice([*TEXTS, "role", "type"]): i for i in items}


def check_answer(answer: httpx.Response, sent: object, *, unavailable: bool = False) -> None:
    """The gateway did not fail, named the request, and an error is short and of OpenAI's shape.

    `unavailable`: a 503 is an answer too.
    """
    failed = answer.status_code >= 500 and not (unavailable and answer.status_code == 503)
    assert not failed, (sent, answer.text)
    assert answer.headers["x-request-id"], sent
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}, sent
        assert error["code"], sent
        assert len(error["message"]) < MAX_MESSAGE, sent
        assert len(error["param"] or "") < MAX_MESSAGE, sent
