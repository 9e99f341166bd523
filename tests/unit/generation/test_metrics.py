"""Counters, histograms and gauges of requests and tenants."""

from uuid import UUID

from prometheus_client import CollectorRegistry

from engine.protocol import Finish, StepWork
from gateway.errors import DeadlineUnreachable
from gateway.generation.metrics import MAX_TENANT_SERIES, OTHER, GatewayMetrics
from gateway.tenancy.caller import Caller
from tests.unit.generation.conftest import SchedulerScene


def value(registry: CollectorRegistry, series: str, **labels: str) -> float | None:
    return registry.get_sample_value(series, labels)


def a_caller(number: int) -> Caller:
    return Caller(
        tenant_id=UUID(int=number),
        tenant=f"tenant {number}",
        app_id=UUID(int=1),
        app="app",
        api_key_id=UUID(int=2),
        instruction=None,
    )


async def test_finished_request_is_counted_with_its_tokens_and_times(scene: SchedulerScene) -> None:
    scene.connect()
    request = scene.request(length=4.0)
    await scene.enqueue(request)
    scene.step({request.sequence_id: [7, 8]}, [Finish(request.sequence_id, "stop")])
    registry = scene.scheduler.metrics.registry
    assert value(registry, "lmaas_requests_total", outcome="stop", service_tier="default") == 1
    assert value(registry, "lmaas_prompt_tokens_total") == 3
    assert value(registry, "lmaas_generated_tokens_total") == 2
    assert value(registry, "lmaas_batch_size_sum") == 1
    for name in ("wait_seconds", "first_token_seconds", "response_seconds"):
        assert value(registry, f"lmaas_{name}_count") == 1
    assert value(registry, "lmaas_prediction_error_tokens_sum") == 2
    assert (value(registry, "lmaas_decision_seconds_count") or 0) >= 1


async def test_engine_steps_are_counted_with_their_times(scene: SchedulerScene) -> None:
    scene.connect()
    request = scene.request()
    await scene.enqueue(request)
    for took_s, computed, steps in ((0.5, 3, 1), (0.25, 1, 1), (1.0, 4, 4)):
        scene.step({request.sequence_id: [7]}, took_s=took_s, computed=computed, steps=steps)
    registry = scene.scheduler.metrics.registry
    assert value(registry, "lmaas_engine_steps_total") == 6
    assert value(registry, "lmaas_engine_busy_seconds_total") == 1.75
    assert value(registry, "lmaas_engine_computed_tokens_total") == 8


async def test_work_of_steps_is_counted_as_the_cost_of_a_step_counts_it(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    request = scene.request()
    await scene.enqueue(request)
    scene.step({}, computed=10, work=StepWork(10, 50.0, 0, 0))
    scene.step({request.sequence_id: [7]}, computed=3, work=StepWork(2, 4.0, 1, 11))
    scene.step()  # an event without a step
    registry = scene.scheduler.metrics.registry
    assert value(registry, "lmaas_engine_steps_total") == 2
    assert value(registry, "lmaas_engine_computed_prompt_tokens_total") == 12
    assert value(registry, "lmaas_engine_prompt_reads_total") == 54
    assert value(registry, "lmaas_engine_decoded_tokens_total") == 1
    assert value(registry, "lmaas_engine_decode_reads_total") == 11


async def test_cut_off_answer_counts_no_prediction_error(scene: SchedulerScene) -> None:
    scene.connect()
    request = scene.request()
    await scene.enqueue(request)
    scene.step({request.sequence_id: [7]}, [Finish(request.sequence_id, "length")])
    assert value(scene.scheduler.metrics.registry, "lmaas_prediction_error_tokens_count") == 0


async def test_shed_request_is_counted_with_the_reason(scene: SchedulerScene) -> None:
    request = scene.request(service_tier="flex")
    await scene.enqueue(request)
    scene.scheduler.cancel(request, DeadlineUnreachable("too late"))
    registry = scene.scheduler.metrics.registry
    assert value(registry, "lmaas_requests_total", outcome="gave_up", service_tier="flex") == 1
    assert value(registry, "lmaas_gave_up_total", reason="deadline") == 1
    assert value(registry, "lmaas_first_token_seconds_count") == 0


def test_fallback_has_a_series_per_reason() -> None:
    metrics = GatewayMetrics()

    def series() -> list[float | None]:
        names = ("untrusted", "short_queue")
        return [value(metrics.registry, "lmaas_policy_fallback", reason=name) for name in names]

    assert series() == [0, 0]
    metrics.fallback("untrusted")
    assert series() == [1, 0]
    metrics.fallback("short_queue")
    assert series() == [0, 1]
    metrics.fallback(None)
    assert series() == [0, 0]


def test_only_the_active_policy_has_a_series() -> None:
    metrics = GatewayMetrics()
    for name in ("lmaas", "fcfs"):
        metrics.policy(name)
    assert value(metrics.registry, "lmaas_policy", name="fcfs") == 1
    assert value(metrics.registry, "lmaas_policy", name="lmaas") is None


def test_tenants_beyond_the_bound_share_one_series() -> None:
    tenants = GatewayMetrics().tenants
    for number in range(MAX_TENANT_SERIES + 5):
        tenants.ended(a_caller(number), 10, 1, 8)
    tenants.ended(a_caller(0), 10, 1, 8)
    tenants.check()
    assert value(tenants.registry, "lmaas_tenant_requests_total", tenant="tenant 0") == 2
    assert value(tenants.registry, "lmaas_tenant_requests_total", tenant=OTHER) == 5
    prompt = value(tenants.registry, "lmaas_tenant_tokens_total", tenant=OTHER, kind="prompt")
    assert prompt == 50


def test_only_the_tenant_registry_names_tenants() -> None:
    metrics = GatewayMetrics()
    metrics.tenants.ended(a_caller(7), 10, 1, 8)
    labels = [s.labels for family in metrics.registry.collect() for s in family.samples]
    assert not any("tenant" in each for each in labels)


def test_virtual_tokens_are_labelled_with_the_tenants_name() -> None:
    tenants = GatewayMetrics().tenants
    tenants.ended(a_caller(7), 10, 1, 8)
    tenants.charged({UUID(int=7).hex: 42.0}.__getitem__)
    assert value(tenants.registry, "lmaas_tenant_virtual_tokens", tenant="tenant 7") == 42.0
