"""`lmaas replay` on a small trace, end to end."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from gateway.cli.main import main
from gateway.cli.replay.command import replay as command
from gateway.replay.cost.model import EngineModel, EngineShape, LinearCost
from gateway.replay.cost.profiles import GPUS, MODELS
from gateway.replay.measure.job import JOB_MEASURES, TIMES
from gateway.replay.measure.metrics import Measures
from gateway.replay.plan import DEFAULT_POLICIES
from gateway.replay.workload.trace import QUANTILE_COLUMNS, REQUIRED_COLUMNS

ENGINE = EngineModel(
    cost=LinearCost(step_s=0.01, prompt_token_s=1e-5, sequence_s=1e-4, kv_token_s=1e-7),
    shape=EngineShape(pages=100, page_tokens=16, context_tokens=1_024),
)


def replay(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["replay", *map(str, arguments)])


def json_report(*arguments: object) -> dict[str, Any]:
    result = replay(*arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    random = np.random.default_rng(1)
    rows = zip(
        random.exponential(0.3, size=60).cumsum(),
        random.integers(5, 60, size=60),
        random.integers(5, 300, size=60),
        strict=True,
    )
    file = tmp_path / "trace.csv"
    file.write_text(
        "arrival_s,prompt_tokens,generation_tokens\n"
        + "".join(f"{at:.4f},{prompt},{tokens}\n" for at, prompt, tokens in rows)
    )
    return file


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    file = tmp_path / "engine.json"
    file.write_bytes(msgspec.json.encode(ENGINE))
    return file


def test_trace_is_replayed_under_the_default_policies(trace: Path) -> None:
    result = replay("--trace", trace)
    assert result.exit_code == 0, result.output
    for name in DEFAULT_POLICIES:
        assert name in result.stdout
    assert "noise of Kendall τ 0.7, none are recorded" in result.output
    assert "as it is" in result.stdout


def test_json_has_the_figures_of_the_table(trace: Path, engine: Path, tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    result = replay(
        *("--trace", trace, "--engine", engine, "--policy", "fcfs", "--load", 0.9, "--json", file)
    )
    assert result.exit_code == 0, result.output
    (row,) = json.loads(file.read_text())["rows"]
    assert (row["policy"], row["load"]) == ("fcfs", 0.9)
    assert f"{row['measures']['p90_s']['mean']:,.2f}" in result.stdout


def test_json_alone_is_printed_for_a_dash(trace: Path, engine: Path) -> None:
    report = json_report(
        *("--trace", trace, "--engine", engine, "--policy", "sjf", "--policy", "fcfs"),
        *("--load", 0.5, "--load", 1.1, "--seeds", 2),
    )
    assert [(row["load"], row["policy"]) for row in report["rows"]] == [
        (0.5, "sjf"),
        (0.5, "fcfs"),
        (1.1, "sjf"),
        (1.1, "fcfs"),
    ]
    assert report["seeds"] == 2
    assert report["requests"] == 60
    mean = report["rows"][0]["measures"]["mean_s"]
    assert mean["low"] <= mean["mean"] <= mean["high"]


def test_report_is_written(trace: Path, engine: Path, tmp_path: Path) -> None:
    result = replay(
        *("--trace", trace, "--engine", engine, "--policy", "fcfs", "--report", tmp_path / "deep/r")
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "deep/r/report.html").exists()


def test_recorded_predictions_are_used_if_there_are_any(engine: Path, tmp_path: Path) -> None:
    trace = tmp_path / "predicted.csv"
    header = "arrival_s,prompt_tokens,generation_tokens,max_tokens," + ",".join(QUANTILE_COLUMNS)
    trace.write_text(header + "\n" + "".join(f"{n},9,30,90,10,20,30,40,50,60\n" for n in range(20)))
    report = json_report("--trace", trace, "--engine", engine, "--policy", "sjf", "--seeds", 3)
    assert report["predictions"] == "as recorded"
    assert report["seeds"] == 1  # nothing is random


def test_generated_arrivals_take_lengths_from_a_trace(trace: Path, engine: Path) -> None:
    report = json_report(
        *("--generate", "bursts", "--lengths", trace, "--requests", 150, "--engine", engine),
        *("--policy", "fcfs"),
    )
    assert report["requests"] == 150
    assert report["rows"][0]["load"] == 0.9
    assert report["arrivals"].startswith("bursts")


def test_generated_arrivals_need_no_file() -> None:
    report = json_report(
        "--generate", "poisson", "--requests", 100, "--policy", "fcfs", "--load", 0.5
    )
    assert "chat service" in report["source"]


def test_one_engine_is_slower_than_two(trace: Path, engine: Path) -> None:
    options = ("--trace", trace, "--engine", engine, "--policy", "fcfs", "--engines")
    two, one = (
        json_report(*options, engines)["rows"][0]["measures"]["mean_s"]["mean"]
        for engines in (2, 1)
    )
    assert two < one


def test_routers_and_speeds_of_engines_are_compared(trace: Path, engine: Path) -> None:
    options = ("--trace", trace, "--engine", engine, "--policy", "lmaas", "--load", 0.9)
    reports = {
        router: json_report(*options, "--speeds", "1,0.5", "--router", router)
        for router in ("round-robin", "predicted-finish")
    }
    mean_s = {key: each["rows"][0]["measures"]["mean_s"]["mean"] for key, each in reports.items()}
    assert mean_s["predicted-finish"] < mean_s["round-robin"]
    report = reports["predicted-finish"]
    assert (report["engines"], report["speeds"]) == (2, [1.0, 0.5])
    assert report["router"] == "predicted-finish"


@pytest.mark.parametrize("speeds", ["0", "1,fast", "2", "", "1,nan"])
def test_speeds_that_are_none_are_refused(speeds: str, trace: Path) -> None:
    result = replay("--trace", trace, "--speeds", speeds)
    assert result.exit_code == 2
    assert "a speed of 0.01 to 1 for each" in " ".join(result.output.split())


def test_one_queue_refuses_what_is_for_one_engine(trace: Path, engine: Path) -> None:
    options = ("--trace", trace, "--engine", engine, "--engines", 2)
    lockstep = replay(*options, "--router", "predicted-finish", "--policy", "magnus")
    assert "magnus is for one engine" in lockstep.output
    job = replay(
        *(*options, "--router", "predicted-finish", "--policy", "fcfs"),
        *("--job-lines", 10, "--job-shared", 64, "--job-own", 16, "--job-answer", 10),
    )
    assert "lines of jobs need another router" in job.output


def test_order_follows_its_settings_and_they_are_reported(trace: Path, engine: Path) -> None:
    mean_s = {}
    for weight in (0, 2, 50):
        report = json_report(
            "--trace", trace, "--engine", engine, "--policy", "lmaas", "--load", 1.3,
            "--waiting-weight", weight, "--max-delay-s", 1e6, "--admission", "reserved",
        )  # fmt: skip
        assert (report["waiting_weight"], report["max_delay_s"]) == (weight, 1e6)
        mean_s[weight] = report["rows"][0]["measures"]["mean_s"]["mean"]
    assert mean_s[0] <= mean_s[2] < mean_s[50]


def test_batches_in_lock_step_follow_their_settings(trace: Path, engine: Path) -> None:
    def report(policy: str, *options: object) -> dict[str, Any]:
        return json_report(
            "--trace", trace, "--engine", engine, "--policy", policy, "--load", 2, *options
        )

    def batch_size(policy: str, *options: object) -> float:
        measures = report(policy, *options)["rows"][0]["measures"]
        return float(measures["batch_size"]["mean"])

    assert 2 < batch_size("fixed", "--fixed-batch", 3) <= 3
    equal_only = batch_size("magnus", "--waste-share", 0)
    any_lengths = batch_size("magnus", "--waste-share", 1)
    assert equal_only != any_lengths
    both = ("--waste-share", 1, "--waste-reads", 0)
    assert batch_size("magnus", *both) == equal_only
    shown = report("magnus", *both, "--fixed-batch", 3)
    assert (shown["fixed_batch"], shown["waste_share"], shown["waste_reads"]) == (3, 1, 0)


def test_speed_multiplies_the_arrival_rate(trace: Path, engine: Path) -> None:
    options = ("--trace", trace, "--engine", engine, "--policy", "fcfs", "--speed")
    usual, fast = (json_report(*options, speed)["rows"][0]["rate_s"] for speed in (1, 4))
    assert fast == pytest.approx(4 * usual)


def test_load_without_queueing_is_pointed_out(trace: Path, engine: Path) -> None:
    hint = "almost no request waited"
    low_load, overload = (
        replay("--trace", trace, "--engine", engine, "--policy", "fcfs", "--load", load).output
        for load in (0.02, 1.2)
    )
    assert hint in low_load
    assert hint not in overload


def test_requests_limits_the_trace(trace: Path, engine: Path) -> None:
    report = json_report("--trace", trace, "--engine", engine, "--policy", "fcfs", "--requests", 7)
    assert report["requests"] == 7


def job_file(folder: Path) -> Path:
    """Twelve lines in groups of four that share 40 words; one line is alone."""
    file = folder / "lines.jsonl"
    bodies = [
        {
            "messages": [
                {"role": "system", "content": " ".join(f"rule{group}-{n}" for n in range(40))},
                {"role": "user", "content": f"question {group}-{line}"},
            ],
            "max_tokens": 30,
        }
        for line in range(4)
        for group in range(3)
    ]
    bodies.append({"prompt": "Alone.", "max_tokens": 30})
    file.write_text("".join(json.dumps({"body": body}) + "\n" for body in bodies))
    return file


def test_synthetic_job_is_replayed_next_to_the_requests(trace: Path, engine: Path) -> None:
    options = ("--trace", trace, "--engine", engine, "--policy", "lmaas")
    job = ("--job-lines", 32, "--job-shared", 160, "--job-own", 40, "--job-degree", 8)
    found = json_report(*options, *job, "--job-answer", 20, "--job-start", 2)["job"]
    assert (found["lines"], found["start_s"], found["prompt_tokens"]) == (32, 2.0, 32 * 200)
    assert found["could_save"] == pytest.approx(7 / 8 * 160 / 200)
    (row,) = found["rows"]
    assert row["job"]["makespan_s"]["mean"] > 0
    assert 0 < row["job"]["saved_prefill"]["mean"] <= found["could_save"] + 1e-9
    assert row["job"]["pins"]["mean"] >= 4
    assert row["job"]["preemptions_interactive"]["mean"] >= 0
    (alone,) = json_report(*options)["rows"]
    assert row["without"]["p99_s"]["mean"] == alone["measures"]["p99_s"]["mean"]
    assert row["with_job"]["p99_s"]["mean"] >= row["without"]["p50_s"]["mean"]


def test_job_file_is_grouped_by_the_text_that_lines_share(
    trace: Path, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMAAS_MODEL", str(tmp_path / "nowhere"))
    options = ("--trace", trace, "--engine", engine, "--policy", "fcfs", "--policy", "lmaas")
    result = replay(*options, "--job", job_file(tmp_path))
    assert result.exit_code == 0, result.output
    assert "prompts of the job are counted in words" in result.stderr
    assert "job: 13 lines of lines.jsonl, after 0 s" in result.stdout
    assert "Interactive requests without → with the job" in result.stdout
    report = json.loads(replay(*options, "--job", job_file(tmp_path), "--json", "-").stdout)
    assert report["job"]["could_save"] == pytest.approx(3 * 3 * 32 / report["job"]["prompt_tokens"])
    assert [row["policy"] for row in report["job"]["rows"]] == ["fcfs", "lmaas"]
    assert {row["job"]["pins"]["mean"] for row in report["job"]["rows"]} == {3.0}


def test_job_file_with_a_wrong_line_is_named_with_its_number(
    trace: Path, engine: Path, tmp_path: Path
) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text('{"body": {"prompt": "a"}}\n{"body": 7}\n')
    result = replay("--trace", trace, "--engine", engine, "--job", file)
    assert result.exit_code == 1
    assert "lines.jsonl:2 is no line of a batch file" in " ".join(result.stderr.split())


def test_requests_too_long_for_the_engine_are_left_out_and_counted(
    engine: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "long.csv"
    trace.write_text("arrival_s,prompt_tokens,generation_tokens\n0,10,10\n1,2000,10\n2,10,10\n")
    result = replay("--trace", trace, "--engine", engine, "--policy", "fcfs")
    assert "1 requests are left out: longer than the 1,024 tokens" in result.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "one of --trace, --history and --generate"),
        (("--generate", "poisson", "--history"), "one of --trace"),
        (("--generate", "poisson", "--from", "2026-01-01"), "go with --history"),
        (("--history", "--lengths", "x"), "--lengths goes with --generate"),
        (("--generate", "poisson", "--speed", "2"), "--speed goes with --trace and --history"),
        (("--history", "--from", "Tuesday"), "'Tuesday' is not a time like"),
        (("--generate", "poisson", "--policy", "best"), "'best' is not one of"),
        (("--generate", "poisson", "--tau", "0"), "0 is not in the range"),
        (
            ("--generate", "poisson", "--engine", "x", "--profile", "a100-80gb/llama-13b"),
            "not both",
        ),
        (("--generate", "poisson", "--job", "x", "--job-lines", "2"), "give --job or --job-lines"),
    ],
)
def test_contradicting_options_are_refused(arguments: tuple[str, ...], reason: str) -> None:
    result = replay(*arguments)
    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--trace", "nowhere.csv"), "there is no file nowhere.csv"),
        (("--generate", "poisson", "--engine", "nowhere.json"), "nowhere.json"),
        (("--generate", "poisson", "--json", "nowhere/x.json"), "there is no folder"),
        (("--generate", "poisson", "--job", "nowhere.jsonl"), "there is no file nowhere.jsonl"),
        (("--generate", "poisson", "--predictor", "recorded"), "no predictions are recorded"),
    ],
)
def test_missing_input_is_named_in_one_line(arguments: tuple[str, ...], reason: str) -> None:
    result = replay(*arguments)
    assert result.exit_code == 1
    assert reason in result.stderr


def test_page_documents_every_option_figure_and_profile() -> None:
    page = (Path(__file__).parents[3] / "docs" / "replay.md").read_text()
    options = {name for option in command.params for name in option.opts if name.startswith("--")}
    figures = set(Measures.__struct_fields__) - {"requests"}
    of_job = {*JOB_MEASURES, *TIMES}
    wanted = {*options, *figures, *of_job, *REQUIRED_COLUMNS, *QUANTILE_COLUMNS, *GPUS, *MODELS}
    assert {name for name in wanted if name not in page} == set()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from gateway.cli.replay.command import replay\n"
        "heavy = {'matplotlib', 'scipy.stats', 'sqlalchemy', 'torch', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
