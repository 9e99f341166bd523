"""S1 live: the work of steps, its modelled time, the requests, rows and targets."""

from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest

from benchmarks.harness.cpu_noise import CpuNoise
from benchmarks.harness.report import rows_table
from benchmarks.harness.retry import Measured
from benchmarks.live.gateway_process import ServedRequests
from benchmarks.live.tenant import Tenant
from benchmarks.own_lengths.lengths_file import Kind, OwnLength, line_id
from benchmarks.s1.ladder import FIXED, FIXED_BATCH, MAGNUS, OURS, RUNGS
from benchmarks.s1.live_learning import KnownLength, known_lengths, log_line
from benchmarks.s1.live_models import (
    PAGE_TOKENS,
    LiveModel,
    demo_model,
    demo_questions,
    smollm2,
    take,
    text_questions,
)
from benchmarks.s1.live_plots import NAME, draw
from benchmarks.s1.live_rows import LiveRun, rows_of
from benchmarks.s1.live_targets import live_targets
from benchmarks.s1.live_traffic import body, plan
from benchmarks.s1.live_work import EngineWork, work_of
from gateway.evaluation.corpus import CorpusLine
from gateway.generation.metrics import GatewayMetrics
from gateway.replay.cost.model import LinearCost
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import PolicyName
from tests.unit.benchmarks.calibrated_engine import calibrated_engine

COST = LinearCost(
    step_s=2e-3, prompt_token_s=5e-5, sequence_s=8e-5, kv_token_s=3e-7, prompt_read_s=1e-8
)
ENGINE = calibrated_engine(COST)
MODEL = demo_model(quick=True)
PREDICTOR = "trained on 9 own answers"
ANSWER_TOKENS = 10  # of every answer
REQUESTS = 28


def work(steps: float = 100.0, batched: float = 28.0) -> EngineWork:
    """Work of four batches."""
    return EngineWork(
        steps=steps,
        busy_s=1.0,
        prompt_tokens=200.0,
        prompt_reads=1_000.0,
        rows=7 * steps,
        row_reads=50 * steps,
        batches=4.0,
        batched=batched,
        splits=1.0,
    )


def a_run(
    rung: PolicyName,
    load: float | None = None,
    *,
    steps: float = 100.0,
    batched: float = 28.0,
    response_s: float = 1.0,
) -> LiveRun:
    arrived = np.zeros(REQUESTS) if load is None else np.linspace(0.0, 9.0, REQUESTS)
    lengths = np.full(REQUESTS, ANSWER_TOKENS)
    lengths[0] += 1
    quantiles = np.repeat(np.arange(1.0, REQUESTS + 1)[:, None], 6, axis=1)
    workload = Workload.of(arrived, np.full(REQUESTS, 5), lengths, quantiles=quantiles)
    response = np.full(REQUESTS, response_s)
    replayed: Any = SimpleNamespace(finished_s=arrived + response_s, busy_s=1.0)
    return LiveRun(
        rung=rung,
        load=load,
        served=ServedRequests(workload, response, response, response, preemptions=0),
        work=work(steps, batched),
        pace=1.0,
        replayed=replayed,
        oracle=None if rung == FIXED else replayed,
    )


def rows(*runs: LiveRun) -> list[Any]:
    return rows_of(MODEL, Measured(ENGINE, CpuNoise(0.1, 0.0), 1), PREDICTOR, runs)


def a_line(app: str = "chat", text: str = "hello") -> CorpusLine:
    return CorpusLine(app=app, instruction="Answer.", input=text, output="an answer")


def a_length(line: CorpusLine, tokens: int = 300, kind: Kind = "sampled") -> OwnLength:
    return OwnLength(
        line=line_id(line),
        app=line.app,
        split="train",
        kind=kind,
        input_tokens=2,
        prompt_tokens=5,
        answer_tokens=tokens,
        finish="stop",
    )


def test_gateway_exports_everything_that_a_modelled_second_needs() -> None:
    exposed = generate_latest(GatewayMetrics().registry).decode()
    assert work_of(exposed) == EngineWork(*[0.0] * 9)


def test_metrics_of_another_server_are_refused() -> None:
    with pytest.raises(KeyError, match="lmaas_engine_steps_total"):
        work_of("lmaas_http_responses 1.0\n")


def test_modelled_time_is_the_sum_of_the_steps_costs() -> None:
    steps = [(12, 0, 0.0, 72.0), (0, 7, 91.0, 0.0), (3, 2, 15.0, 4.5)]
    total = EngineWork(
        steps=len(steps),
        busy_s=9.0,
        prompt_tokens=sum(each[0] for each in steps),
        prompt_reads=sum(each[3] for each in steps),
        rows=sum(each[1] for each in steps),
        row_reads=sum(each[2] for each in steps),
        batches=1.0,
        batched=7.0,
        splits=0.0,
    )
    assert total.modelled_s(COST) == pytest.approx(sum(COST.seconds(*each) for each in steps))


def test_work_between_two_readings_is_their_difference() -> None:
    assert work(steps=300.0).since(work(steps=100.0))[:5] == (200, 0, 0, 0, 1_400)


def test_arrivals_are_the_same_poisson_process_for_every_rung() -> None:
    questions = list(islice(demo_questions(seed=1), 2_000))
    planned = plan(questions, seed=1, rate_s=20.0)
    assert planned == plan(questions, seed=1, rate_s=20.0)
    assert planned[-1].at_s == pytest.approx(100, rel=0.1)
    assert {each.at_s for each in plan(questions, seed=1)} == {0.0}


def test_every_request_has_the_same_max_tokens_and_its_own_seed() -> None:
    planned = plan(list(islice(demo_questions(seed=1), 30)), seed=1)
    bodies = [body(MODEL, each) for each in planned]
    assert {each["max_tokens"] for each in bodies} == {MODEL.max_answer}
    assert len({each["seed"] for each in bodies}) == 30


def test_questions_of_all_apps_fit_the_longest_prompt() -> None:
    fitting = take(MODEL, demo_questions(seed=5), 300)
    assert fitting == take(MODEL, demo_questions(seed=5), 300)
    assert len(fitting) == 300
    assert len({each.app for each in fitting}) == 7


def test_lines_of_the_texts_are_asked_once_and_from_all_apps() -> None:
    lines = [a_line(app, f"{app} {number}") for app in "abc" for number in range(4)]
    asked = list(text_questions(lines, seed=1))
    assert sorted(each.input for each in asked) == sorted(line.input for line in lines)
    assert Counter(each.app for each in asked[:6]) == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize("model", [MODEL, smollm2(Path("smollm2"), quick=False)])
def test_memory_holds_a_fixed_batch_of_the_largest_requests(model: LiveModel) -> None:
    kv_tokens = model.settings["kv_tokens"]
    assert isinstance(kv_tokens, int)
    row_pages = -(-(model.max_prompt + model.max_answer + 1) // PAGE_TOKENS)
    assert FIXED_BATCH * row_pages <= kv_tokens // PAGE_TOKENS < (FIXED_BATCH + 1) * row_pages
    assert model.backlog % FIXED_BATCH == 1


def test_known_lengths_are_those_of_sampled_answers() -> None:
    known, unknown = a_line(text="known"), a_line(text="unknown")
    lengths = [a_length(known, 300), a_length(known, 9, "greedy"), a_length(unknown, 9, "again")]
    [found] = known_lengths([known, unknown], lengths)
    assert (found.line, found.own.answer_tokens) == (known, 300)


def test_a_known_length_above_max_tokens_is_learned_as_cut_off() -> None:
    model, tenant = smollm2(Path("smollm2"), quick=False), Tenant("t", {"chat": "app id"}, {})
    long, short = (
        log_line(model, tenant, KnownLength(a_line(), a_length(a_line(), tokens)))
        for tokens in (300, 30)
    )
    assert (long.app, long.tokens, long.cut_off) == ("app id", model.max_answer, True)
    assert (short.tokens, short.cut_off) == (30, False)


def test_rows_compare_each_rung_with_fixed_at_one_cost() -> None:
    fixed, magnus, engine = rows(a_run(FIXED), a_run(MAGNUS, steps=50.0))
    ratio = work(100.0).modelled_s(COST) / work(50.0).modelled_s(COST)
    assert (fixed["/fixed"], magnus["/fixed"]) == (1.0, pytest.approx(ratio))
    assert magnus["valid tokens"] == REQUESTS * ANSWER_TOKENS + 1
    assert fixed["valid share"] == pytest.approx(281 / (700 + REQUESTS))
    assert (fixed["batch"], fixed["rows a step"], fixed["halved"]) == (7.0, 7.0, 1)
    assert (fixed["predictor"], fixed["oracle in replay"]) == ("none", None)
    assert magnus["predictor"] == PREDICTOR
    assert (engine["step_s µs"], engine["foreign"]) == (pytest.approx(2_000), 0.1)
    assert rows_table([fixed, magnus, engine])


def test_batch_of_continuous_rungs_is_the_rows_of_a_step() -> None:
    assert a_run(OURS, batched=4.0).batch == 7.0
    assert a_run(MAGNUS, batched=4.0).batch == 1.0


def test_responses_are_compared_at_the_same_load() -> None:
    found = rows(
        a_run(FIXED),
        a_run(FIXED, 1.1, response_s=4.0),
        a_run(MAGNUS, 1.1, response_s=1.0),
        a_run(FIXED, 0.9, response_s=2.0),
        a_run(MAGNUS, 0.9, response_s=1.0),
    )
    ratios = {(row["load"], row["rung"]): row["/fixed"] for row in found if "load" in row}
    assert ratios == {(1.1, FIXED): 1, (1.1, MAGNUS): 0.25, (0.9, FIXED): 1, (0.9, MAGNUS): 0.5}


def verdicts(found: list[Any]) -> dict[str, bool]:
    """Whether Magnus met each target of the model."""
    return {
        each.name: each.met
        for each in live_targets(found)
        if MAGNUS in each.name and MODEL.name in each.name
    }


def test_targets_are_met_by_a_rung_that_gains_enough() -> None:
    found = rows(
        a_run(FIXED),
        a_run(MAGNUS, steps=50.0),
        a_run(FIXED, 1.1, response_s=4.0),
        a_run(MAGNUS, 1.1),
        a_run(FIXED, 0.9, response_s=2.0),
        a_run(MAGNUS, 0.9),
    )
    assert list(verdicts(found).values()) == [True, True, True]


def test_a_rung_with_smaller_batches_than_fixed_does_not_count() -> None:
    found = rows(a_run(FIXED), a_run(MAGNUS, steps=50.0, batched=27.0))
    assert not any(verdicts(found).values())


def test_no_targets_without_the_live_part() -> None:
    assert list(live_targets([])) == []


def test_plot_is_drawn(tmp_path: Path) -> None:
    backlog = [a_run(rung) for rung in RUNGS]
    at_load = [a_run(rung, load) for load in (1.1, 0.9) for rung in (FIXED, MAGNUS, OURS)]
    draw(rows(*backlog, *at_load), tmp_path)
    assert (tmp_path / f"{NAME}.png").stat().st_size > 10_000
