"""Sessions and sign-in attempts are bounded in number and age."""

import time
from contextlib import ExitStack, suppress

import pytest
from litestar import Request
from prometheus_client import CollectorRegistry

from gateway.api.http_metrics import HttpMetrics
from gateway.dashboard.access.attempts import MAX_ADDRESSES, MAX_FAILURES, WINDOW_S, SignInAttempts
from gateway.dashboard.access.guard import COOKIE, cookie_name
from gateway.dashboard.access.sessions import (
    MAX_AGE_S,
    MAX_SESSIONS,
    MAX_SESSIONS_OF_KEY,
    Session,
    Sessions,
)
from gateway.dashboard.pages.sign_in import inside
from gateway.errors import DatabaseLost, OverLimit, StartupFailure, Unauthenticated
from gateway.server import Front, build_server
from gateway.settings import read_settings


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_session_is_found_by_its_token_alone_until_it_is_ended() -> None:
    sessions = Sessions()
    token, session = sessions.start("key")
    assert sessions.find(token) is session
    assert sessions.find("") is sessions.find("another") is None
    sessions.end(session)
    assert sessions.find(token) is None


def test_a_session_ends_with_its_age() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    token, _ = sessions.start("key")
    clock.now_s = MAX_AGE_S - 1
    assert sessions.find(token)
    clock.now_s = MAX_AGE_S
    assert sessions.find(token) is None
    sessions.start("other")
    assert len(sessions) == 1


def test_the_oldest_session_of_a_key_makes_room() -> None:
    sessions = Sessions()
    other, _ = sessions.start("other")
    first, _ = sessions.start("key")
    for _ in range(MAX_SESSIONS_OF_KEY):
        newest, _ = sessions.start("key")
    assert sessions.find(first) is None
    assert sessions.find(newest)
    assert sessions.find(other)
    assert len(sessions) == MAX_SESSIONS_OF_KEY + 1


def test_sessions_are_bounded_in_number() -> None:
    sessions = Sessions()
    for number in range(MAX_SESSIONS + 5):
        sessions.start(f"key {number}")
    assert len(sessions) == MAX_SESSIONS


def test_only_the_sessions_own_token_allows_a_change() -> None:
    _, session = Sessions().start("key")
    assert session.allows(session.csrf)
    assert not session.allows("")
    assert not session.allows("é")


def test_a_session_does_not_show_its_key() -> None:
    _, session = Sessions().start("the-key")
    assert "the-key" not in repr(session)


def test_an_address_is_refused_after_too_many_wrong_keys_until_the_window_has_passed() -> None:
    clock = Clock()
    attempts = SignInAttempts(clock)
    for _ in range(MAX_FAILURES):
        fail(attempts, "10.0.0.1")
    with pytest.raises(OverLimit) as refused:
        fail(attempts, "10.0.0.1")
    assert refused.value.retry_after_s == WINDOW_S
    fail(attempts, "10.0.0.2")
    clock.now_s = WINDOW_S
    fail(attempts, "10.0.0.1")


def fail(attempts: SignInAttempts, address: str) -> None:
    """An attempt with a wrong key."""
    with suppress(Unauthenticated), attempts.attempt(address):
        raise Unauthenticated("a wrong key")


def test_attempts_under_way_count_as_wrong_keys_and_right_ones_do_not() -> None:
    attempts = SignInAttempts()
    for _ in range(3 * MAX_FAILURES):
        with attempts.attempt("10.0.0.1"):
            pass
        with suppress(DatabaseLost), attempts.attempt("10.0.0.1"):
            raise DatabaseLost("no answer")
    assert len(attempts) == 0
    with ExitStack() as under_way:
        for _ in range(MAX_FAILURES):
            under_way.enter_context(attempts.attempt("10.0.0.1"))
        with pytest.raises(OverLimit):
            fail(attempts, "10.0.0.1")
    fail(attempts, "10.0.0.1")


def test_addresses_with_wrong_keys_are_bounded_in_number() -> None:
    attempts = SignInAttempts()
    for number in range(MAX_ADDRESSES + 3):
        fail(attempts, str(number))
    assert len(attempts) == MAX_ADDRESSES


def test_session_is_over_once_it_was_ended_displaced_or_is_old() -> None:
    sessions = Sessions()
    _, out = sessions.start("the-key")
    assert not out.over
    sessions.end(out)
    assert out.over
    started = [sessions.start("the-key").session for _ in range(MAX_SESSIONS_OF_KEY + 1)]
    assert [each.over for each in started] == [True, *[False] * MAX_SESSIONS_OF_KEY]
    assert Session("the-key", "csrf", time.monotonic()).over


def trusted(given: str) -> object:
    """What the server of a gateway with this setting trusts."""
    settings = read_settings({"LMAAS_TRUSTED_PROXIES": given})
    metrics = HttpMetrics(CollectorRegistry())
    return build_server(settings, Front(settings, metrics, str), metrics).config.forwarded_allow_ips


@pytest.mark.parametrize("given", ["10.0.0.1/8", "1.2.3", "10.0.0.0/99", "fe80::g", "10.0.0.1,"])
def test_a_misspelt_proxy_stops_the_start(given: str) -> None:
    with pytest.raises(StartupFailure, match="LMAAS_TRUSTED_PROXIES"):
        trusted(given)


@pytest.mark.parametrize("given", ["*", "10.0.0.0/8,::1", "192.0.2.7", ""])
def test_proxies_are_addresses_and_networks(given: str) -> None:
    assert trusted(given) == (given or "127.0.0.1,::1")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost:8000", f"{COOKIE}_8000"),
        ("[::1]:8001", f"{COOKIE}_8001"),
        ("lmaas.example.org", COOKIE),
        ("[::1]", COOKIE),
        ("", COOKIE),
        ("x:1;a=b", COOKIE),
        ("x:٣", COOKIE),
        ("x:123456", COOKIE),
    ],
)
def test_the_cookie_is_named_by_the_port_that_the_browser_asks(host: str, name: str) -> None:
    headers = [(b"host", host.encode())]
    assert cookie_name(Request({"type": "http", "headers": headers})) == name


@pytest.mark.parametrize(
    ("back", "leads_to"),
    [
        ("/page/queue", "/page/queue"),
        (None, "/"),
        ("https://elsewhere.example", "/"),
        ("//elsewhere.example/page/", "/"),
        ("/page/\\elsewhere", "/"),
        ("/admin/tenants", "/"),
        ("/page/requests?outcome=error&within=24h", "/page/requests?outcome=error&within=24h"),
        ("/page/\nqueue", "/"),
        ("/page/\u2026", "/"),
        ("/page/a b", "/"),
    ],
)
def test_a_sign_in_leads_to_the_page_alone(back: str | None, leads_to: str) -> None:
    assert inside(back) == leads_to
