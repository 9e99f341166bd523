"""The demo's traffic: seeded, with no question in common between training and test."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from engine.checkpoints.catalogue import DEMO_FOLDER
from engine.demo.exactness import SEED as EXACTNESS_SEED
from engine.demo.examples import QUESTIONS_PER_JOB, SEED, save_examples
from engine.demo.jobs import JOBS
from engine.demo.train import TRAINING_SEED, VALIDATION_SEED
from gateway.demo.apps import APPS, QUESTIONS, SAMPLED_APPS, DemoApp, apps_of, read_apps
from gateway.demo.english import jobs as english
from gateway.demo.traffic import BURST_S, plan_traffic
from gateway.errors import LmaasError

SPELL = DemoApp("spell", "Spell.", ["a", "b", "c", "d"])
DIARY = DemoApp("diary", "Invent.", ["e", "f", "g", "h"])
DEMO_APPS = [SPELL, DIARY]


def test_plan_is_deterministic() -> None:
    assert plan_traffic(DEMO_APPS, 40, 1) == plan_traffic(DEMO_APPS, 40, 1)


def test_halves_have_the_same_apps_at_the_same_times_and_no_question_in_common() -> None:
    first, second = plan_traffic(DEMO_APPS, 40, 0), plan_traffic(DEMO_APPS, 40, 1)
    assert [(a.at_s, a.app, a.seed) for a in first] == [(a.at_s, a.app, a.seed) for a in second]
    assert not {a.question for a in first} & {a.question for a in second}


def test_requests_are_spread_evenly_over_apps() -> None:
    counts = Counter(planned.app.name for planned in plan_traffic(DEMO_APPS, 41, 0))
    assert sorted(counts.values()) == [20, 21]


def test_only_open_jobs_are_sampled() -> None:
    assert {job.name for job in JOBS if job.open} == SAMPLED_APPS - {"story"}
    for app in [*read_apps(DEMO_FOLDER), *apps_of("a name on the hub")]:
        assert app.temperature == (1.0 if app.name in SAMPLED_APPS else 0.0)


def test_arrivals_come_in_order_and_in_bursts() -> None:
    times = [planned.at_s for planned in plan_traffic(DEMO_APPS, 100, 0)]
    assert times == sorted(times)
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) > 5 * sorted(gaps)[50]
    assert times[11] <= BURST_S


def test_app_with_one_question_has_it_in_both_halves() -> None:
    apps = [DemoApp("spell", "Spell.", ["only"])]
    plans = [plan_traffic(apps, 2, half) for half in (0, 1)]
    assert {planned.question for plan in plans for planned in plan} == {"only"}


def test_shipped_examples_are_what_training_writes(tmp_path: Path) -> None:
    save_examples(tmp_path / QUESTIONS)
    assert (tmp_path / QUESTIONS).read_text() == (DEMO_FOLDER / QUESTIONS).read_text()
    assert {app.name: len(app.questions) for app in apps_of(str(DEMO_FOLDER))} == {
        job.name: QUESTIONS_PER_JOB for job in JOBS
    }
    assert len({SEED, TRAINING_SEED, VALIDATION_SEED, EXACTNESS_SEED}) == 4


@pytest.mark.parametrize("content", [None, '{"app": "spell"}\n', "{"])
def test_unreadable_examples_are_reported_with_their_path(
    tmp_path: Path, content: str | None
) -> None:
    (tmp_path / APPS).write_bytes((DEMO_FOLDER / APPS).read_bytes())
    if content is not None:
        (tmp_path / QUESTIONS).write_text(content)
    with pytest.raises(LmaasError) as refused:
        apps_of(str(tmp_path))
    assert str(tmp_path / QUESTIONS) in refused.value.message


def test_demo_needs_an_app_with_instruction_and_examples(tmp_path: Path) -> None:
    (tmp_path / APPS).write_text('[{"name": "translate", "instruction": "Do it."}]')
    (tmp_path / QUESTIONS).write_text('{"app": "spell", "question": "a"}\n')
    with pytest.raises(LmaasError, match="both an instruction and examples"):
        apps_of(str(tmp_path))


def test_model_without_examples_gets_the_english_jobs(tmp_path: Path) -> None:
    apps = apps_of(str(tmp_path))
    assert [app.name for app in apps] == [job.name for job in english.JOBS]
    assert all(app.max_tokens and len(set(app.questions)) == len(app.questions) for app in apps)


@pytest.mark.parametrize("job", english.JOBS, ids=lambda job: job.name)
def test_english_questions_are_the_same_in_every_run_and_enough_for_a_demo(
    job: english.Job,
) -> None:
    assert english.questions(job) == english.questions(job)
    assert len(english.questions(job)) >= 38
