"""When a process is taken to hang."""

from http import HTTPStatus

from engine.silence import IMPORT_S, Silence


def beats_until_too_long(silence: Silence, status: int | None) -> int:
    beats = 0
    while not silence.too_long:
        silence.beat(status)
        beats += 1
    return beats


def test_process_that_serves_and_then_is_silent_is_ended_after_its_time() -> None:
    silence = Silence(silence_s=5.0, start_s=600.0)
    silence.beat(HTTPStatus.OK)
    assert beats_until_too_long(silence, None) == 5


def test_sign_of_life_begins_the_count_again() -> None:
    silence = Silence(silence_s=5.0, start_s=600.0)
    for _ in range(100):
        silence.beat(HTTPStatus.OK)
        for _ in range(4):
            silence.beat(None)
    assert not silence.too_long


def test_start_may_be_silent_for_longer() -> None:
    assert beats_until_too_long(Silence(silence_s=5.0, start_s=600.0), None) == IMPORT_S


def test_start_that_answers_but_never_serves_is_ended_after_its_time() -> None:
    loading = HTTPStatus.SERVICE_UNAVAILABLE
    assert beats_until_too_long(Silence(silence_s=5.0, start_s=90.0), loading) == 90
