"""`lmaas evaluate` on a synthetic corpus, end to end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from gateway.cli.main import main
from gateway.evaluation.baselines import APP_MEAN, APP_MEDIAN, INPUT_LENGTH, LINE_PER_APP
from gateway.evaluation.experiment import OURS, EvaluationSummary
from gateway.evaluation.magnus import NAME as MAGNUS
from gateway.evaluation.scoring import POOLED

Write = Callable[..., Path]


def evaluate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", "--threads", "1", *map(str, arguments)])


@pytest.fixture
def found(folder: Path, tmp_path: Path) -> Result:
    return evaluate(
        *("--train", folder, "--test", folder, "--baselines", "--cache", tmp_path / "cache"),
        *("--json", tmp_path / "numbers.json", "--plots", tmp_path / "plots"),
    )


def test_a_run_writes_tables_numbers_and_pictures(found: Result, tmp_path: Path) -> None:
    assert found.exit_code == 0, found.output
    written = msgspec.json.decode((tmp_path / "numbers.json").read_bytes(), type=EvaluationSummary)
    assert (written.train_rows, written.test_rows, written.new_apps) == (112, 28, [])
    simpler = [INPUT_LENGTH, APP_MEAN, APP_MEDIAN, LINE_PER_APP, MAGNUS]
    assert list(written.scores) == [OURS, *simpler]
    assert list(written.versus) == simpler
    assert all(list(cards) == ["echo", "story", POOLED] for cards in written.scores.values())

    shown = next(line for line in found.output.splitlines() if line.strip().startswith(POOLED))
    ours = written.scores[OURS][POOLED]
    assert f"{ours.mae:.1f} " in shown
    assert f"{ours.log_rmse_mean:.3f}" in shown

    pictures = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert pictures == ["coverage.png", "errors.png", "lengths.png", "midflight.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "plots").iterdir())

    assert ours.log_rmse_mean < written.scores["input length"][POOLED].log_rmse_mean
    assert ours.log_rmse_mean < written.scores["app mean"][POOLED].log_rmse_mean


def test_numbers_alone_are_printed_where_asked(folder: Path) -> None:
    found = evaluate("--train", folder, "--test", folder, "--lengths", "bpe", "--json", "-")
    assert found.exit_code == 0, found.output
    printed: dict[str, Any] = json.loads(found.stdout)
    assert (printed["lengths"], printed["history"]) == ("bpe", False)
    assert list(printed["scores"]) == [OURS]
    assert printed["versus"] == {}


def test_app_that_was_not_trained_on_is_marked(folder: Path, write: Write) -> None:
    lines = (folder / "story.jsonl").read_text().replace('"story"', '"novel"').splitlines()
    other = write(*lines, folder="other")
    found = evaluate("--train", folder, "--test", other, "--history")
    assert found.exit_code == 0, found.output
    assert "novel*" in found.output
    assert "* not trained on" in found.output


def test_missing_folder_is_reported_in_one_line(tmp_path: Path) -> None:
    found = evaluate("--train", tmp_path / "none", "--test", tmp_path)
    assert found.exit_code == 1
    assert found.output == f"lmaas: there is no folder {tmp_path / 'none'}\n"


def test_invalid_line_is_reported_in_one_line(folder: Path) -> None:
    (folder / "bad.jsonl").write_text('{"app": "echo"}\n')
    found = evaluate("--train", folder, "--test", folder)
    assert found.exit_code == 1
    assert found.output.startswith(f"lmaas: {folder / 'bad.jsonl'}, line 1: ")
    assert found.output.count("\n") == 1


def test_too_few_training_lines_are_reported_in_one_line(folder: Path, write: Write) -> None:
    few = write(*(folder / "echo.jsonl").read_text().splitlines(), folder="few")
    found = evaluate("--train", few, "--test", folder)
    assert found.exit_code == 1
    assert found.output == "lmaas: 56 lines to train on are too few, at least 100 are needed\n"


def test_single_test_line_is_enough(folder: Path, write: Write, tmp_path: Path) -> None:
    one = write(next(iter((folder / "echo.jsonl").read_text().splitlines())), folder="one")
    found = evaluate("--train", folder, "--test", one, "--baselines", "--plots", tmp_path / "p")
    assert found.exit_code == 0, found.output


def test_json_path_is_checked_first(folder: Path, tmp_path: Path) -> None:
    found = evaluate("--train", folder, "--test", folder, "--json", tmp_path / "no" / "where.json")
    assert found.exit_code == 1
    assert "there is no folder" in found.output
