"""Settings from the environment."""

from pathlib import Path

import msgspec
import pytest

from engine.settings import Settings as EngineSettings
from engine.settings import read_settings as read_engine_settings
from gateway.engines.start import engine_environment
from gateway.errors import StartupFailure
from gateway.settings import Settings, read_settings, without_secrets


def test_unset_and_empty_variables_take_their_defaults() -> None:
    assert read_settings({"LMAAS_PORT": ""}).port == 8000


def test_values_are_read_as_their_types() -> None:
    settings = read_settings({"LMAAS_PORT": "9000", "LMAAS_MAX_DELAY_S": "2.5", "HOME": "/x"})
    assert (settings.port, settings.max_delay_s) == (9000, 2.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LMAAS_PORT", "70000"),
        ("LMAAS_PORT", "many"),
        ("LMAAS_POLICY", "best"),
        ("LMAAS_API_KEY", "short"),
        ("LMAAS_MAX_DELAY_S", "0"),
        ("LMAAS_KV_TOKENS", "-1"),
        ("LMAAS_HOST_KV_TOKENS", "-1"),
        ("LMAAS_PREFIX_SHARING", "maybe"),
        ("LMAAS_ENGINE_STEP_LIMIT_S", "0"),
        ("LMAAS_PROT", "8000"),
        ("LMAAS_MODEL_NAME", "our model"),
    ],
)
def test_wrong_or_unknown_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(StartupFailure, match=name):
        read_settings({name: value})


def test_accepted_names_are_listed_for_an_unknown_one() -> None:
    with pytest.raises(StartupFailure, match="accepted are own, peak, reserved, maximum, held"):
        read_settings({"LMAAS_ADMISSION": "upper"})


def test_started_engine_gets_every_setting_unchanged() -> None:
    given = {
        "LMAAS_KV_TOKENS": "4096",
        "LMAAS_HOST_KV_TOKENS": "0",
        "LMAAS_PREFIX_SHARING": "false",
        "LMAAS_ENGINE_STEP_LIMIT_S": "7.5",
    }
    environment = engine_environment(read_settings(given), "/a/model", Path("/run/engine.sock"))
    engine = read_engine_settings(environment)
    assert (engine.kv_tokens, engine.host_kv_tokens) == (4096, 0)
    assert (engine.prefix_sharing, engine.engine_step_limit_s) == (False, 7.5)
    fields = msgspec.structs.fields(EngineSettings)
    assert environment.keys() == {field.encode_name for field in fields}


def test_defaults_of_engine_settings_equal_the_engines_own() -> None:
    ours = {field.encode_name: field.default for field in msgspec.structs.fields(Settings)}
    for field in msgspec.structs.fields(EngineSettings):
        if not field.required:
            assert ours[field.encode_name] == field.default


def test_child_processes_do_not_get_secrets() -> None:
    environment = {
        "DATABASE_URL": "x",
        "LMAAS_ADMIN_KEY": "x",
        "LMAAS_API_KEY": "x",
        "PATH": "/bin",
    }
    assert without_secrets(environment) == {"PATH": "/bin"}
