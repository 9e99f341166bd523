"""S3 live: questions, lies, samples, rows, targets and plot."""

from pathlib import Path
from statistics import mean
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks.harness.cpu_noise import CpuNoise
from benchmarks.harness.retry import Measured
from benchmarks.live.gateway_process import ServedRequests
from benchmarks.live.traffic import Answer
from benchmarks.s3.live_cells import (
    DEFAULT,
    HONEST,
    MAXIMUM,
    MISLED,
    ORACLE,
    S3,
    LiveContender,
    LivePass,
)
from benchmarks.s3.live_occupancy import Sample, sample_of
from benchmarks.s3.live_plots import draw
from benchmarks.s3.live_requests import LIES, MAX_TOKENS, bodies, log_of, questions
from benchmarks.s3.live_rows import rows_of, targets
from benchmarks.s3.live_run import COUNTS
from engine.demo.jobs import JOBS
from engine.protocol import KvState, Step
from gateway.api.admin.engine import EngineAnswer, KvAnswer, StepAnswer
from gateway.prediction.lifecycle.log_format import read_lines
from gateway.replay.workload.workload import Workload

EVERYONE = (*HONEST, *(each for contenders in MISLED.values() for each in contenders))
PROMPT, TOKENS = 10, 20


def a_pass(
    contender: LiveContender = S3,
    *,
    samples: tuple[Sample, ...] = (Sample(3, 14, 0.9),),
    errors: int = 0,
    text: str = "right",
    seconds: float = 10.0,
    **counts: float,
) -> LivePass:
    """Forty requests: half run at once, the others start when these end after `seconds`."""
    queued_s = np.repeat([0.0, seconds], 20)
    workload = Workload.of(np.zeros(40), np.full(40, PROMPT), np.full(40, TOKENS))
    workload = workload.with_quantiles(np.full((40, 6), TOKENS / 2, np.float32))
    answers = [Answer(text, TOKENS, 1.0) for _ in range(40 - errors)]
    return LivePass(
        contender=contender,
        answers=answers + [Answer("", 0, 1.0, "it failed")] * errors,
        served=ServedRequests(workload, queued_s, queued_s, queued_s + seconds, preemptions=0),
        samples=list(samples),
        counts=dict.fromkeys(COUNTS, 0) | {"computed_tokens": 40 * (PROMPT + TOKENS + 1)} | counts,
    )


def passes(**changed: LivePass) -> dict[str, Measured[LivePass]]:
    """A pass of each contender; the maximum's has two sequences in memory."""
    found = {each.name: a_pass(each) for each in EVERYONE}
    found[MAXIMUM.name] = a_pass(MAXIMUM, samples=(Sample(3, 2, 0.2),), seconds=40.0)
    found |= {each.contender.name: each for each in changed.values()}
    return {name: Measured(each, CpuNoise(0, 0), 1) for name, each in found.items()}


def missed(found: dict[str, Measured[LivePass]]) -> list[str]:
    return [each.name for each in targets(rows_of(found)) if not each.met]


def test_questions_have_one_right_answer_and_are_reproducible() -> None:
    asked = questions(50, seed=3)
    assert asked == questions(50, seed=3)
    open_jobs = {each for job in JOBS if job.open for each in job.instructions}
    assert not open_jobs & {each.instruction for each in asked}
    body: dict[str, Any] = bodies(asked, [MAX_TOKENS] * 50)[0].body
    assert (body["temperature"], body["max_tokens"]) == (0, MAX_TOKENS)


def test_lies_are_valid_logs() -> None:
    true = [3, 50, 200]
    assert LIES["a fifth"](true) == [1, 10, 40]
    assert LIES["constant"](true) == [round(mean(true))] * 3
    for lie in LIES.values():
        log = b"\n".join(map(msgspec.json.encode, log_of("app", questions(3, seed=1), lie(true))))
        lines, bad = read_lines(log)
        assert not bad
        assert [line.tokens for line in lines.values()] == lie(true)


def test_sample_is_what_the_admin_api_shows() -> None:
    step = Step(number=4, kv=KvState(72, 18, 16), tokens={}, running=9, suspended=2)
    shown = EngineAnswer(
        connected=True,
        paused=False,
        draining=False,
        mode="continuous",
        busy_s=0.0,
        waiting=5,
        running=9,
        info=None,
        kv=KvAnswer.of(step.kv),
        step=StepAnswer.of(step),
        engines=[],
    )
    assert sample_of(msgspec.to_builtins(shown)) == Sample(5, 7, 0.75)
    assert sample_of(msgspec.to_builtins(msgspec.structs.replace(shown, step=None))) is None


def test_memory_is_measured_while_requests_wait() -> None:
    found = a_pass(samples=(Sample(4, 10, 1.0), Sample(2, 8, 0.8), Sample(0, 1, 0.1)))
    assert found.in_memory == 9
    assert found.kv_use == pytest.approx(0.9)
    assert found.tokens_s == pytest.approx(20 * TOKENS / 10)
    assert found.mean_end_s == pytest.approx(15)


def test_tokens_computed_again_are_those_beyond_each_answers_own() -> None:
    assert a_pass().recomputed == 0
    assert a_pass(computed_tokens=40 * (PROMPT + TOKENS + 1) + 7).recomputed == 7
    limited = a_pass(ORACLE, computed_tokens=40 * (PROMPT + TOKENS - 1))
    assert limited.recomputed == 0  # no stop token, and nothing behind it


def test_right_answers_in_full_memory_meet_every_target() -> None:
    assert missed(passes()) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (a_pass(MISLED["a fifth"][0], errors=1), "lost answers, all contenders, at most"),
        (a_pass(MISLED["constant"][1], failed=1), "out of memory, all contenders, at most"),
        (a_pass(DEFAULT, shrinks=1), "out of memory, all contenders, at most"),
        (a_pass(DEFAULT, text="wrong"), "changed texts, all contenders, at most"),
        (a_pass(DEFAULT, seconds=12.0), "lmaas: tokens/s over the oracle's, at least"),
        (
            a_pass(DEFAULT, samples=(Sample(3, 11, 0.9),)),
            "lmaas: in memory over the maximum's, at least",
        ),
        (a_pass(DEFAULT, samples=(Sample(3, 14, 0.8),)), "lmaas: KV use, at least"),
    ],
    ids=["lost", "failed", "pool shrunk", "changed", "slow", "few in memory", "memory left free"],
)
def test_failure_of_one_contender_is_missed(wrong: LivePass, words: str) -> None:
    assert words in missed(passes(wrong=wrong))


def test_contender_that_was_not_run_is_missed() -> None:
    found = passes()
    del found[MISLED["constant"][1].name]
    assert missed(found) == [
        f"{words}, all contenders, at most"
        for words in ("out of memory", "lost answers", "changed texts")
    ]


def test_cost_of_a_lie_is_relative_to_the_same_policy_with_own_lengths() -> None:
    slow = a_pass(MISLED["a fifth"][1], seconds=20.0)
    [row] = [row for row in rows_of(passes(slow=slow)) if row["contender"] == "lmaas, a fifth"][:1]
    assert row["/with own lengths"] == pytest.approx(0.5)


def test_plot_is_drawn(tmp_path: Path) -> None:
    draw(passes(), tmp_path)
    assert (tmp_path / "S3-live-reservations.png").stat().st_size > 1000
