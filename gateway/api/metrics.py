"""`GET /metrics`: counters and gauges in Prometheus' text format."""

from typing import Any

from litestar import Controller, Request, Response, get
from litestar.di import NamedDependency
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.api.guards import bearer
from gateway.generation.metrics import GatewayMetrics
from gateway.generation.scheduler import Scheduler
from gateway.generation.service import GenerationService
from gateway.parts import Parts
from gateway.scheduling.lmaas.policy import LmaasPolicy
from gateway.tenancy.scopes import AdminAccess, Scope


class MetricsController(Controller):
    """For Prometheus; only series with tenant names need a key."""

    path = "/metrics"
    tags = ("Health",)

    @get(
        summary="Counters and gauges for Prometheus",
        media_type="text/plain",
        security=[{}, {"bearer": []}],
    )
    async def show_metrics(
        self,
        request: Request[Any, Any, Any],
        service: NamedDependency[GenerationService],
        admission: NamedDependency[AdminAccess],
        parts: NamedDependency[Parts],
    ) -> Response[bytes]:
        """Series without tenant names; with the admin key or a `read` key also those with names.

        Tenants beyond the first hundred share the name `other`. 401 or 403 for another key.
        """
        named = "authorization" in request.headers
        if named:
            await admission.admit(bearer(request), Scope.READ, reads=True)
        metrics = service.scheduler.metrics
        read_gauges(metrics, service)
        metrics.parts(parts.states, parts.restarts)
        metrics.gauge(
            "lmaas_history_waiting_bytes",
            parts.history.waiting_bytes,
            "Bytes of records that wait for the database, on disk and in memory.",
        )
        text = generate_latest(metrics.registry)
        if named:
            text += generate_latest(metrics.tenants.registry)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


def read_gauges(metrics: GatewayMetrics, service: GenerationService) -> None:
    """Set the gauges to their present values."""
    scheduler, drift = service.scheduler, service.drift
    policy, engine, table = scheduler.policy, scheduler.engine, scheduler.table
    metrics.policy(policy.name)
    metrics.fallback(scheduler.fallback)
    if isinstance(policy, LmaasPolicy):
        metrics.tenants.charged(policy.shares.counter)
    metrics.gauge("lmaas_waiting_requests", len(table.waiting), "Requests not yet started.")
    lines = sum(state.lane == "batch" for state in table.waiting.values())
    metrics.gauge("lmaas_waiting_lines", lines, "Of these, lines of batch jobs.")
    metrics.gauge(
        "lmaas_waiting_tokens",
        scheduler.load.total.tokens,
        "Tokens of requests not yet started: their prompts and predicted answers.",
    )
    metrics.gauge(
        "lmaas_waiting_texts", len(service.workers.queue), "Long texts that wait for a thread."
    )
    metrics.gauge("lmaas_running_requests", len(table.running), "Requests in the engine.")
    lines = sum(state.lane == "batch" for state in table.running.values())
    metrics.gauge("lmaas_running_lines", lines, "Of these, lines of batch jobs.")
    metrics.gauge("lmaas_prefixes", len(scheduler.pins), "Prefixes of jobs' groups in use.")
    metrics.gauge("lmaas_engine_connected", engine.connected, "1 while an engine answers.")
    _read_engines(metrics, scheduler)
    kv = engine.kv
    metrics.gauge("lmaas_kv_pages", kv.pages if kv else None, "Pages of KV memory.")
    metrics.gauge(
        "lmaas_kv_used_pages", kv.pages - kv.free if kv else None, "Pages of KV memory in use."
    )
    metrics.gauge(
        "lmaas_kv_pinned_pages", kv.pinned if kv else None, "Pages that jobs' groups have pinned."
    )
    offload = kv.offload_pages if kv else None
    metrics.gauge("lmaas_kv_offload_pages", offload, "Pages of sequences in host memory.")
    metrics.gauge(
        "lmaas_kv_offload_used_pages",
        kv.offload_pages - kv.offload_free if kv else None,
        "Pages of sequences in host memory, in use.",
    )
    quality = drift.quality()
    metrics.gauge(
        "lmaas_prediction_coverage",
        quality.coverage if quality else None,
        "Share of newest lengths within the 0.9 quantile; NaN before the first hundred.",
    )
    metrics.gauge(
        "lmaas_prediction_tau",
        quality.tau if quality else None,
        "Kendall's tau of newest medians and lengths; NaN before the first hundred.",
    )


def _read_engines(metrics: GatewayMetrics, scheduler: Scheduler) -> None:
    """Set the gauges of each engine."""
    engines, table = scheduler.engine, scheduler.table
    metrics.engine_gauge(
        "lmaas_engine_up",
        [engine.connected for engine in engines],
        "1 while this engine answers.",
    )
    metrics.engine_gauge(
        "lmaas_engine_accepting",
        [engine.accepting for engine in engines],
        "1 while this engine is given requests: it is not paused or drained.",
    )
    metrics.engine_gauge(
        "lmaas_engine_running_requests",
        [len(table.on(engine.number)) for engine in engines],
        "Requests in this engine.",
    )
    states = [engine.kv if engine.connected else None for engine in engines]
    metrics.engine_gauge(
        "lmaas_engine_kv_used_share",
        [1 - kv.free / kv.pages if kv is not None and kv.pages else None for kv in states],
        "Share of this engine's KV memory in use.",
    )
