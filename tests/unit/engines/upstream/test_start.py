"""Which servers the settings name, with which keys."""

from pathlib import Path

import pytest

from gateway.engines.start import engine_sockets
from gateway.engines.upstream.start import Upstream, upstreams
from gateway.errors import StartupFailure
from gateway.settings import Settings, read_settings


@pytest.mark.parametrize(
    ("named", "keys", "expected"),
    [
        (None, None, []),
        ("http://a:1/v1", None, [("http://a:1/v1", None)]),
        ("http://a", "with,comma", [("http://a", "with,comma")]),
        ("http://a,http://b", "k", [("http://a", "k"), ("http://b", "k")]),
        (" http://a , http://b ", "k, l", [("http://a", "k"), ("http://b", "l")]),
        ("http://a http://b", "k,", [("http://a", "k"), ("http://b", None)]),
        ("http://a", " sk-key\n", [("http://a", "sk-key")]),
        ("http://a,http://b", "sk-key\n", [("http://a", "sk-key"), ("http://b", "sk-key")]),
        ("http://a", "\n", [("http://a", None)]),
    ],
)
def test_servers_have_their_keys(
    named: str | None, keys: str | None, expected: list[tuple[str, str | None]]
) -> None:
    found = upstreams(Settings(upstream=named, upstream_api_key=keys))
    assert found == [Upstream(*each) for each in expected]


@pytest.mark.parametrize(
    ("named", "keys", "reason"),
    [
        ("http://a,http://a/", None, "names http://a/ twice"),
        ("http://a/v1,http://a", None, "names http://a twice"),
        ("http://a", "sk-\u2026", "a character that a key cannot have"),
        ("http://a", "sk-\x00k", "a character that a key cannot have"),
        ("http://a,http://b,http://c", "k,l", "has 2 keys, and LMAAS_UPSTREAM 3 servers"),
    ],
)
def test_what_does_not_fit_is_named(named: str, keys: str | None, reason: str) -> None:
    with pytest.raises(StartupFailure, match=reason):
        upstreams(Settings(upstream=named, upstream_api_key=keys))


@pytest.mark.parametrize(
    "named",
    [
        "ftp://a",
        "http://a,b",
        "http://",
        "http://a;http://b c",
        "http://user:pass@a",
        "http://a?model=b",
        "http://a:80a1",
        "http://a#b",
    ],
)
def test_what_is_no_list_of_addresses_is_refused(named: str) -> None:
    with pytest.raises(StartupFailure, match="LMAAS_UPSTREAM"):
        read_settings({"LMAAS_UPSTREAM": named})


def test_addresses_may_be_separated_by_commas_or_spaces() -> None:
    settings = read_settings({"LMAAS_UPSTREAM": "http://a:8001/v1, https://b http://[::1]:80"})
    assert [each.url for each in upstreams(settings)] == [
        "http://a:8001/v1",
        "https://b",
        "http://[::1]:80",
    ]


def test_engines_have_the_named_sockets_or_that_of_the_data_folder(tmp_path: Path) -> None:
    assert engine_sockets(Settings(engine_socket="/a b.sock, /c.sock")) == [
        Path("/a b.sock"),
        Path("/c.sock"),
    ]
    assert engine_sockets(Settings(data_dir=str(tmp_path))) == [tmp_path / "engine.sock"]
    with pytest.raises(StartupFailure, match="twice"):
        engine_sockets(Settings(engine_socket="/a.sock,/a.sock"))
