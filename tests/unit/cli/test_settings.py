"""Settings as the environment gives them."""

import pytest

from gateway.errors import StartupFailure
from gateway.settings import read_settings, without_secrets


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
        ("LMAAS_PROT", "8000"),
    ],
)
def test_wrong_or_unknown_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(StartupFailure, match=name):
        read_settings({name: value})


def test_children_are_not_told_our_secrets() -> None:
    environment = {
        "DATABASE_URL": "x",
        "LMAAS_ADMIN_KEY": "x",
        "LMAAS_API_KEY": "x",
        "PATH": "/bin",
    }
    assert without_secrets(environment) == {"PATH": "/bin"}
