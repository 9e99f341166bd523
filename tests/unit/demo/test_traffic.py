"""The demo's traffic: seeded, with no question in common between training and test."""

from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from engine.demo.exactness import SEED as EXACTNESS_SEED
from engine.demo.examples import QUESTIONS_PER_JOB, SEED, save_examples
from engine.demo.jobs import JOBS
from engine.demo.train import TRAINING_SEED, VALIDATION_SEED
from gateway.cli.admin.client import AdminClient
from gateway.demo.demonstration import DemoPlan, demonstrate
from gateway.demo.examples import QUESTIONS, read_examples
from gateway.demo.traffic import BURST_S, SAMPLED_APPS, plan_traffic
from gateway.errors import LmaasError, StartupFailure
from gateway.settings import DEMO_MODEL

EXAMPLES = {"spell": ["a", "b", "c", "d"], "diary": ["e", "f", "g", "h"]}


def test_plan_is_deterministic() -> None:
    assert plan_traffic(EXAMPLES, 40, 1) == plan_traffic(EXAMPLES, 40, 1)


def test_halves_have_the_same_apps_at_the_same_times_and_no_question_in_common() -> None:
    first, second = plan_traffic(EXAMPLES, 40, 0), plan_traffic(EXAMPLES, 40, 1)
    assert [(a.at_s, a.app, a.seed) for a in first] == [(a.at_s, a.app, a.seed) for a in second]
    assert not {a.question for a in first} & {a.question for a in second}


def test_requests_are_spread_evenly_over_apps() -> None:
    counts = Counter(planned.app for planned in plan_traffic(EXAMPLES, 41, 0))
    assert sorted(counts.values()) == [20, 21]


def test_only_the_open_app_is_sampled() -> None:
    for planned in plan_traffic(EXAMPLES, 40, 0):
        assert planned.temperature == (1.0 if planned.app == "diary" else 0.0)


def test_sampled_apps_are_the_open_jobs() -> None:
    assert {job.name for job in JOBS if job.open} == SAMPLED_APPS


def test_arrivals_come_in_order_and_in_bursts() -> None:
    times = [planned.at_s for planned in plan_traffic(EXAMPLES, 100, 0)]
    assert times == sorted(times)
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) > 5 * sorted(gaps)[50]
    assert times[11] <= BURST_S


def test_app_with_one_question_has_it_in_both_halves() -> None:
    plans = [plan_traffic({"spell": ["only"]}, 2, half) for half in (0, 1)]
    assert {planned.question for plan in plans for planned in plan} == {"only"}


def test_shipped_examples_are_what_training_writes(tmp_path: Path) -> None:
    save_examples(tmp_path / QUESTIONS)
    assert (tmp_path / QUESTIONS).read_text() == (DEMO_MODEL / QUESTIONS).read_text()
    examples = read_examples(str(tmp_path))
    assert {app: len(questions) for app, questions in examples.items()} == {
        job.name: QUESTIONS_PER_JOB for job in JOBS
    }
    assert len({SEED, TRAINING_SEED, VALIDATION_SEED, EXACTNESS_SEED}) == 4


@pytest.mark.parametrize("content", [None, '{"app": "spell"}\n', "{"])
def test_model_without_readable_examples_is_refused_in_one_line(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / QUESTIONS).write_text(content)
    with pytest.raises(StartupFailure) as refused:
        read_examples(str(tmp_path))
    assert str(tmp_path / QUESTIONS) in refused.value.message


def test_demo_needs_an_app_with_instruction_and_examples() -> None:
    plan = DemoPlan("http://127.0.0.1:9", "model", EXAMPLES, {"translate": "Do it."}, 14, 4)
    with (
        closing(AdminClient(plan.url, "a key")) as admin,
        pytest.raises(LmaasError, match="both an instruction and examples"),
    ):
        demonstrate(admin, plan, Console())
