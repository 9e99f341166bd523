"""Errors that prevent the engine's start: settings, address, model."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from transformers import AutoConfig

from engine.address import Address
from engine.errors import StartupFailure, UnsupportedModel
from engine.running.loaded_model import check_supported
from engine.running.model import load_model
from engine.settings import read_settings

NEEDED = {"LMAAS_MODEL": "m", "LMAAS_ENGINE_SOCKET": "s"}


def test_settings_have_defaults_and_ignore_those_of_the_gateway() -> None:
    settings = read_settings({**NEEDED, "LMAAS_POLICY": "fcfs", "LMAAS_KV_TOKENS": "1000"})
    assert (settings.kv_tokens, settings.engine_step_tokens) == (1000, 512)
    assert (settings.engine_dtype, settings.prefix_sharing) == ("auto", True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"LMAAS_ENGINE_COLOUR": "red"}, "unknown setting LMAAS_ENGINE_COLOUR"),
        ({"LMAAS_KV_TOKENS": "many"}, "LMAAS_KV_TOKENS: Expected `int`"),
        ({"LMAAS_ENGINE_DTYPE": "int8"}, "LMAAS_ENGINE_DTYPE: Invalid enum value 'int8'"),
        ({"LMAAS_ENGINE_STEP_TOKENS": "0"}, "LMAAS_ENGINE_STEP_TOKENS: Expected `int` >= 1"),
        ({"LMAAS_KV_MEMORY_SHARE": "0"}, "LMAAS_KV_MEMORY_SHARE: Expected `float` > 0"),
        ({"LMAAS_MODEL": ""}, "Object missing required field `LMAAS_MODEL`"),
        ({"LMAAS_KV_TOKENS": "64", "LMAAS_PAGE_TOKENS": "65"}, "LMAAS_PAGE_TOKENS: a page must"),
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, str], message: str) -> None:
    with pytest.raises(StartupFailure, match=message):
        read_settings({**NEEDED, **given})


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="e-") as name:
        yield Path(name)


def test_a_stale_socket_is_replaced_and_removed_at_the_end(folder: Path) -> None:
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    address = Address(str(path))
    with address.listen(), socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        assert path.stat().st_mode & 0o077 == 0
    address.remove()
    assert not path.exists()


def test_a_live_socket_is_left_alone(folder: Path) -> None:
    address = Address(str(folder / "s"))
    with address.listen():
        other = Address(str(folder / "s"))
        with pytest.raises(StartupFailure, match="another process serves on"):
            other.check()
        other.remove()
        assert (folder / "s").exists()


def test_a_file_that_is_not_a_socket_is_left_alone(folder: Path) -> None:
    (folder / "s").write_text("precious")
    with pytest.raises(StartupFailure, match="exists and is not a socket"):
        Address(str(folder / "s")).check()
    assert (folder / "s").read_text() == "precious"


@pytest.mark.parametrize(
    ("path", "message"),
    [("/tmp/" + "x" * 103, "longer than 107 bytes"), ("/no/such/s", "no folder /no/such")],
)
def test_an_impossible_path_is_refused(path: str, message: str) -> None:
    with pytest.raises(StartupFailure, match=message):
        Address(path).check()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "bert"}, "a bert model is not served; accepted are gemma"),
        ({"model_type": "t5"}, "a t5 model is not served"),
        (
            {"model_type": "llama", "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
            "dynamic RoPE depends on the other sequences",
        ),
        ({"model_type": "gpt2", "add_cross_attention": True}, "only decoder-only models"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused(config: dict, reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        check_supported(AutoConfig.for_model(**config))


def test_a_folder_without_a_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StartupFailure, match=f"LMAAS_MODEL: {tmp_path} does not load: ") as failure:
        load_model(str(tmp_path), "cpu", "auto")
    assert "\n" not in str(failure.value)


def test_damaged_weights_are_one_clear_line(tmp_path: Path, model_folder: Callable) -> None:
    for file in model_folder("llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:3000])
    with pytest.raises(StartupFailure, match="does not load: ") as failure:
        load_model(str(tmp_path), "cpu", "auto")
    assert "\n" not in str(failure.value)
