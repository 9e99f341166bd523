"""`lmaas example`: the example request, and the key in it."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli.main import main


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder that the settings name, of a gateway that others reach by a proxy."""
    monkeypatch.setenv("LMAAS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LMAAS_MODEL", "demo")
    monkeypatch.setenv("LMAAS_PUBLIC_URL", "http://chat.example.org")
    monkeypatch.delenv("LMAAS_API_KEY", raising=False)
    return tmp_path


def printed() -> list[str]:
    result = CliRunner().invoke(main, ["example"])
    assert result.exit_code == 0, result.output
    return [line for line in result.output.splitlines() if line]


def test_kept_key_is_in_a_request_of_one_line(data: Path) -> None:
    (data / "api_key").write_text("sk-lmaas-kept\n")
    key, request = printed()
    assert key == f"API key of the demo tenant (kept in {data / 'api_key'}): sk-lmaas-kept"
    assert request.startswith("curl http://chat.example.org/v1/chat/completions -H ")
    assert '-H "Authorization: Bearer sk-lmaas-kept"' in request
    assert '"content": "Spell out every word."}, {"role": "user"' in request


def test_given_key_is_not_printed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "api_key").write_text("sk-lmaas-kept\n")
    monkeypatch.setenv("LMAAS_API_KEY", "sk-given-by-the-operator")
    output = "\n".join(printed())
    assert "Bearer $LMAAS_API_KEY" in output
    assert "sk-given" not in output
    assert "sk-lmaas-kept" not in output


def test_without_a_key_the_command_that_makes_one_is_named(data: Path) -> None:
    del data
    key, request = printed()
    assert "`lmaas admin keys create demo/playground example`" in key
    assert "Bearer $API_KEY" in request
