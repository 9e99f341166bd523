"""Deadlines, crashes and secrets of checks; settings; memory."""

from collections.abc import Iterator
from threading import Event

from gateway.diagnosis.diagnosis import Check, run
from gateway.diagnosis.environment import check_settings, usable_settings
from gateway.diagnosis.finding import Finding, ok
from gateway.diagnosis.memory import MemoryNeeds, check_memory

GIB = 1 << 30


def test_a_check_that_crashes_is_a_failure_of_its_part() -> None:
    def find() -> object:
        yield ok("disk", "half")
        raise OSError(5, "the disk is broken")

    found = list(run(Check("disk", find, 60)))
    assert [each.status for each in found] == ["ok", "failure"]
    assert "OSError" in found[1].message
    assert "the disk is broken" in found[1].message


def test_a_check_that_hangs_is_a_failure_at_its_deadline() -> None:
    never = Event()

    def find() -> Iterator[Finding]:
        never.wait()
        yield ok("disk", "too late")

    [found] = run(Check("disk", find, 0.05))
    never.set()
    assert (found.part, found.status) == ("disk", "failure")
    assert "not done within 0.05 s" in found.message


def test_secrets_are_replaced_in_every_sentence() -> None:
    def find() -> object:
        raise RuntimeError("refused: hunter2-and-more")

    [found] = run(Check("x", find, 60), ["hunter2-and-more"])
    assert "hunter2" not in found.message
    assert "refused: ***" in found.message


def test_every_wrong_setting_is_named_and_the_others_are_used() -> None:
    environment = {
        "LMAAS_PROT": "1",
        "LMAAS_POLICY": "best",
        "LMAAS_API_KEY": "short",
        "LMAAS_PORT": "9000",
        "LMAAS_MODEL": "",
        "HOME": "/root",
    }
    found = list(check_settings(environment))
    assert {each.status for each in found} == {"failure"}
    assert [each.message.split()[0].rstrip(":") for each in found] == [
        "LMAAS_API_KEY",
        "LMAAS_POLICY",
        "LMAAS_PROT",
    ]
    assert "LMAAS_PORT" in found[2].remedy
    settings = usable_settings(environment)
    assert (settings.port, settings.policy, settings.api_key) == (9000, "lmaas", None)


def test_right_settings_are_counted() -> None:
    [found] = check_settings({"LMAAS_PORT": "9000", "LMAAS_MODEL": ""})
    assert (found.status, found.message.startswith("1 set, ")) == ("ok", True)


def test_memory_that_suffices_is_fine() -> None:
    needs = MemoryNeeds(
        available=8 * GIB, weights=GIB, kv_token=1 << 10, kv_tokens=1 << 20, host_kv_tokens=1 << 20
    )
    assert check_memory(needs).status == "ok"


def test_a_pool_that_does_not_fit_gets_a_size_that_does() -> None:
    needs = MemoryNeeds(
        available=8 * GIB, weights=GIB, kv_token=1 << 20, kv_tokens=1 << 14, host_kv_tokens=0
    )
    found = check_memory(needs)
    assert found.status == "failure"
    tokens = int(found.remedy.removeprefix("set LMAAS_KV_TOKENS to ").split()[0])
    smaller = MemoryNeeds(
        available=8 * GIB, weights=GIB, kv_token=1 << 20, kv_tokens=tokens, host_kv_tokens=0
    )
    assert check_memory(smaller).status == "ok"


def test_weights_that_do_not_fit_need_another_model() -> None:
    needs = MemoryNeeds(
        available=8 * GIB, weights=9 * GIB, kv_token=1 << 10, kv_tokens=1 << 10, host_kv_tokens=0
    )
    assert "smaller model" in check_memory(needs).remedy


def test_the_memory_of_a_gpu_is_its_own() -> None:
    needs = MemoryNeeds(
        available=2 * GIB,
        weights=9 * GIB,
        kv_token=1 << 10,
        kv_tokens=1 << 10,
        host_kv_tokens=0,
        gpu_free=40 * GIB,
    )
    assert check_memory(needs).status == "ok"


def test_host_copies_of_preempted_requests_that_do_not_fit_are_a_warning() -> None:
    needs = MemoryNeeds(
        available=8 * GIB, weights=GIB, kv_token=1 << 20, kv_tokens=1 << 10, host_kv_tokens=1 << 14
    )
    found = check_memory(needs)
    assert (found.status, "LMAAS_HOST_KV_TOKENS" in found.remedy) == ("warning", True)
