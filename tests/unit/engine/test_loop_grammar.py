"""The step loop with grammars: whatever happens to a sequence, its text is one of its grammar."""

import json
import re
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema_rs import validator_for
from tokenizers import Tokenizer

from engine.grammar.cache import GrammarCache
from engine.grammar.compiler import Compiler
from engine.protocol import Grammar, Sampling, SetMode
from engine.step.commands import Stop

END = 96
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "sizes": {"type": "array", "items": {"enum": [1, 22, 333]}, "maxItems": 3},
        "done": {"type": "boolean"},
    },
    "required": ["name", "sizes", "done"],
    "additionalProperties": False,
}
JSON = Grammar("json_schema", json.dumps(SCHEMA))
DIGITS = Grammar("regex", "[0-9]{3,9}")
BRACKETS = Grammar("lark", 'start: "(" start ")" | "[" start "]" | /[a-z]{1,3}/\n')
KINDS = (JSON, DIGITS, BRACKETS)


@pytest.fixture(scope="module")
def grammars(tokenizer_file: Path) -> GrammarCache:
    return GrammarCache(partial(Compiler, tokenizer_file, 97, [END]))


@pytest.fixture(scope="module")
def text(tokenizer_file: Path) -> Callable[[list[int]], str]:
    return Tokenizer.from_file(str(tokenizer_file)).decode


@pytest.fixture
def a_constrained(a_sequence: Callable) -> Callable:
    """Sequences that sample at random what their grammar allows."""

    def build(name: str, grammar: Grammar = JSON, **fields: Any) -> Any:
        seed = sum(map(ord, name))
        given = {
            "max_tokens": 150,
            "reserve": 20,
            "stop_ids": [END],
            "sampling": Sampling(temperature=1.5, seed=seed),
            **fields,
        }
        return a_sequence(name, [seed % 90, 5, 7], grammar=grammar, **given)

    return build


def fits(grammar: Grammar, written: str) -> bool:
    if grammar is JSON:
        return validator_for(SCHEMA).is_valid(json.loads(written))
    if grammar is DIGITS:
        return re.fullmatch("[0-9]{3,9}", written) is not None
    while written[0] in "([":
        assert written[0] + written[-1] in {"()", "[]"}
        written = written[1:-1]
    return re.fullmatch("[a-z]{1,3}", written) is not None


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_an_answer_that_ends_by_itself_is_a_text_of_its_grammar(
    a_run: Callable,
    a_constrained: Callable,
    grammars: GrammarCache,
    text: Callable,
    temperature: float,
) -> None:
    run = a_run(grammars=grammars, pages=400)
    given = {f"{kind}{n}": g for n in range(6) for kind, g in zip("jdb", KINDS, strict=True)}
    sequences = [
        a_constrained(name, grammar, sampling=Sampling(temperature, seed=place))
        for place, (name, grammar) in enumerate(given.items())
    ]
    answers = run.all(sequences)
    ended = [name for name in given if run.finishes[name].reason == "stop"]
    assert len(ended) > len(given) / 2
    for name in ended:
        assert fits(given[name], text(answers[name])), text(answers[name])
        assert END not in answers[name]
    assert {finish.reason for finish in run.finishes.values()} <= {"stop", "length"}


@pytest.fixture
def alone(a_run: Callable, grammars: GrammarCache) -> Callable:
    """The answers of sequences that run alone, one after the other."""

    def answers(sequences: list) -> dict[str, list[int]]:
        run = a_run(grammars=grammars, pages=100)
        return {each.id: run.all([each])[each.id] for each in sequences}

    return answers


@pytest.mark.parametrize("host_pages", [0, 64])
def test_preemption_and_swapping_keep_the_place_in_the_grammar(
    a_run: Callable,
    a_constrained: Callable,
    grammars: GrammarCache,
    alone: Callable,
    host_pages: int,
) -> None:
    sequences = [a_constrained(f"s{n}", reserve=2, max_tokens=60) for n in range(6)]
    run = a_run(grammars=grammars, pages=24, step_tokens=8, host_pages=host_pages)
    answers = run.all(sequences)
    assert run.preempted
    assert bool(run.loop.stats.swaps) == bool(host_pages)
    assert answers == alone(sequences)


def test_an_engine_that_is_started_again_continues_the_text(
    a_run: Callable, a_constrained: Callable, grammars: GrammarCache, alone: Callable
) -> None:
    sequences = [a_constrained("a"), a_constrained("b", DIGITS), a_constrained("c", BRACKETS)]
    answers = alone(sequences)
    for cut in (1, 3):
        continued = [
            a_constrained(each.id, each.grammar, generated=answers[each.id][:cut])
            for each in sequences
        ]
        later = a_run(grammars=grammars).all(continued)
        assert {name: answers[name][:cut] + rest for name, rest in later.items()} == answers


def test_a_failed_step_repeats_no_token_of_the_text(
    a_runner: Callable,
    a_run: Callable,
    a_constrained: Callable,
    grammars: GrammarCache,
    alone: Callable,
) -> None:
    sequences = [a_constrained(f"s{n}") for n in range(3)]
    runner = a_runner()
    forward, calls = runner._forward, []

    def failing(packed: Any) -> torch.Tensor:
        calls.append(packed)
        if len(calls) in {6, 30}:
            raise RuntimeError("a kernel failed")
        return forward(packed)

    runner._forward = failing
    assert a_run(runner, grammars=grammars).all(sequences) == alone(sequences)
    assert len(calls) > 30


def test_in_lock_step_the_texts_are_the_same(
    a_run: Callable, a_constrained: Callable, grammars: GrammarCache, alone: Callable
) -> None:
    sequences = [a_constrained(f"s{n}", max_tokens=40) for n in range(5)]
    run = a_run(grammars=grammars, pages=40)
    run.loop.put(SetMode("lockstep"))
    assert run.all(sequences) == alone(sequences)
    assert run.returned


def test_a_complete_text_ends_without_a_step_for_the_stop_id(
    a_run: Callable, a_constrained: Callable, grammars: GrammarCache
) -> None:
    run = a_run(grammars=grammars)
    fixed = a_constrained("fixed", Grammar("regex", "abc"), stop_ids=[])
    assert len(run.all([fixed])["fixed"]) == 3
    assert run.finishes["fixed"].reason == "stop"
    assert [len(step.tokens) for step in run.steps if step.finished] == [1]


def test_every_stop_id_ends_a_text_where_it_may_end(
    a_run: Callable, a_constrained: Callable, grammars: GrammarCache, text: Callable
) -> None:
    other = 50
    open_ended = Grammar("regex", "[0-9]{2,}")
    likely = Sampling(logit_bias={END: 50.0, other: 60.0})
    run = a_run(grammars=grammars)
    answers = run.all(
        [
            a_constrained("both", open_ended, stop_ids=[END, other], sampling=likely),
            a_constrained("none", open_ended, stop_ids=[], sampling=likely, max_tokens=20),
        ]
    )
    assert len(text(answers["both"])) == 2
    assert (run.finishes["both"].reason, run.finishes["none"].reason) == ("stop", "length")


def test_allowed_ids_bias_and_penalties_apply_within_the_grammar(
    a_run: Callable, a_constrained: Callable, grammars: GrammarCache, text: Callable
) -> None:
    seven, eight = 22, 23
    sampling = Sampling(
        logit_bias={seven: 90.0, 0: 100.0}, frequency_penalty=2.0, allowed=[0, seven, eight]
    )
    [answer] = (
        a_run(grammars=grammars).all([a_constrained("s", DIGITS, sampling=sampling)]).values()
    )
    assert set(text(answer)) == {"7"}


def test_log_probabilities_of_constrained_tokens_are_the_models(
    a_run: Callable, a_constrained: Callable, grammars: GrammarCache
) -> None:
    run = a_run(grammars=grammars)
    [answer] = run.all([a_constrained("s", DIGITS, sampling=Sampling(logprobs=20))]).values()
    reported = [found for step in run.steps for found in step.logprobs.get("s", [])]
    assert len(reported) == len(answer)
    assert any(found.logprob < found.top[0][1] for found in reported)


def test_a_grammar_that_does_not_compile_ends_its_sequence_alone(
    a_run: Callable, a_constrained: Callable, a_sequence: Callable, grammars: GrammarCache
) -> None:
    run = a_run(grammars=grammars)
    run.all(
        [a_constrained("bad", Grammar("regex", "(")), a_constrained("good"), a_sequence("free")]
    )
    finish = run.finishes["bad"]
    assert finish.reason == "error"
    assert "unclosed group" in (finish.message or "")
    assert {run.finishes[name].reason for name in ("good", "free")} <= {"stop", "length"}


def test_without_a_tokenizer_grammars_are_refused_and_others_run(
    a_run: Callable, a_constrained: Callable, a_sequence: Callable
) -> None:
    run = a_run()
    run.all([a_constrained("s"), a_sequence("free")])
    assert "tokenizer" in (run.finishes["s"].message or "")
    assert run.finishes["free"].reason == "length"


class SlowCache(GrammarCache):
    """Compiles when `finish` is called."""

    def __init__(self, compile_now: Callable) -> None:
        super().__init__()
        self._compile_now = compile_now
        self.asked: list[tuple[Grammar, Future]] = []

    def compile(self, grammar: Grammar) -> Future:
        self.asked.append((grammar, Future()))
        return self.asked[-1][1]

    def finish(self) -> None:
        for grammar, future in self.asked:
            future.set_result(self._compile_now(grammar).result())


def test_others_run_while_a_grammar_is_compiled_and_what_waits_can_be_cancelled(
    a_run: Callable, a_constrained: Callable, a_sequence: Callable, grammars: GrammarCache
) -> None:
    slow = SlowCache(grammars.compile)
    run = a_run(grammars=slow)
    run.submit([a_constrained("cancelled"), a_constrained("waits")])
    run.all([a_sequence("free")])
    assert not run.tokens("waits")
    run.loop.put(Stop(["cancelled"]))
    run.until(lambda run: "cancelled" in run.finishes)
    slow.finish()
    run.until(lambda run: "waits" in run.finishes)
    assert run.finishes["waits"].reason == "stop"
    assert not run.tokens("cancelled")
