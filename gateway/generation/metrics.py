"""Prometheus metrics: of all requests, and per tenant."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final
from uuid import UUID

from msgspec import Struct
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from engine.protocol import Step
from gateway.errors import DeadlineUnreachable
from gateway.generation.request_state import HostReason, RequestState
from gateway.scheduling.dispatch import Dispatch
from gateway.tenancy.caller import Caller

MAX_TENANT_SERIES: Final = 100  # tenants with series of their own; the others share one
OTHER: Final = "other"
GAVE_UP: Final = "gave_up"
UP: Final = ("connected", "held")  # states of a part that answers
FALLBACKS: Final = ("untrusted", "short_queue")
SECONDS_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600)
DECISION_SECONDS_BUCKETS: Final = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2)
BATCH_SIZE_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
TOKEN_ERROR_BUCKETS: Final = (0, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000)

disable_created_metrics()  # type: ignore[no-untyped-call]  # no `_created` series per counter


class TenantMetrics:
    """Series labelled with tenants' names, in a registry of their own: served only with a key."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._labels: dict[UUID, str] = {}
        self._requests = Counter(
            "lmaas_tenant_requests", "Requests that ended.", ["tenant"], registry=self.registry
        )
        self._tokens = Counter(
            "lmaas_tenant_tokens",
            "Tokens of requests that ended.",
            ["tenant", "kind"],
            registry=self.registry,
        )
        self._steps = Counter(
            "lmaas_tenant_response_steps",
            "Engine steps between arrival in the queue and end, of requests that ended.",
            ["tenant"],
            registry=self.registry,
        )
        self._virtual = Gauge(
            "lmaas_tenant_virtual_tokens",
            "Virtual tokens charged to the tenant; the waiting tenant with the fewest is next.",
            ["tenant"],
            registry=self.registry,
        )

    def ended(self, caller: Caller, prompt_tokens: int, generated_tokens: int, steps: int) -> None:
        """A tenant's request ended, this many engine steps after it was queued."""
        label = self.label(caller)
        self._requests.labels(label).inc()
        self._steps.labels(label).inc(steps)
        self._tokens.labels(label, "prompt").inc(prompt_tokens)
        self._tokens.labels(label, "generated").inc(generated_tokens)

    def label(self, caller: Caller) -> str:
        """A tenant's name; `other` beyond the first `MAX_TENANT_SERIES`."""
        known = self._labels.get(caller.tenant_id)
        if known is not None:
            return known
        if len(self._labels) >= MAX_TENANT_SERIES:
            return OTHER
        self._labels[caller.tenant_id] = caller.tenant
        return caller.tenant

    def charged(self, counter: Callable[[str], float]) -> None:
        """Set the virtual tokens of each tenant with a series; `counter` takes its id in hex."""
        for tenant, label in self._labels.items():
            self._virtual.labels(label).set(counter(tenant.hex))

    def check(self) -> None:
        """AssertionError if there are more series than `MAX_TENANT_SERIES`."""
        assert len(self._labels) <= MAX_TENANT_SERIES


class TokenTotals(Struct):
    """Tokens that the engine's steps computed since the start, by kind."""

    prompt: int = 0
    generated: int = 0


class GatewayMetrics:
    """Series without tenant names; those with names are in `tenants`.

    Counters and histograms follow events; `gauge` sets gauges at each scrape.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        self.tenants = TenantMetrics()
        self.computed = TokenTotals()
        self._requests = Counter(
            "lmaas_requests",
            "Requests that ended, by outcome: stop, length, cancelled, error or gave_up.",
            ["outcome", "service_tier"],
            registry=registry,
        )
        self._gave_up = Counter(
            "lmaas_gave_up", "Requests shed before their start.", ["reason"], registry=registry
        )
        self._tokens = {
            kind: Counter(f"lmaas_{kind}_tokens", f"Tokens {words}.", registry=registry)
            for kind, words in (("prompt", "read"), ("generated", "written"))
        }
        self._preemptions = Counter(
            "lmaas_preemptions", "Preemptions of requests that ended.", registry=registry
        )
        self._starts = Counter(
            "lmaas_batches",
            "Batches started, by reason: rank, arrival, overdue, late or share.",
            ["reason"],
            registry=registry,
        )
        self._host_starts = Counter(
            "lmaas_kv_offload_starts",
            "Requests started in host memory, by reason: does_not_fit or would_preempt.",
            ["reason"],
            registry=registry,
        )
        self._splits = Counter(
            "lmaas_batch_splits",
            "Lock-step batches that ran out of memory and were queued again in halves.",
            registry=registry,
        )
        self._pins_lost = Counter(
            "lmaas_pins_lost",
            "Prefixes of jobs' groups that the engine released for lack of memory.",
            registry=registry,
        )
        self._saved = Counter(
            "lmaas_saved_prompt_tokens",
            "Prompt tokens of jobs' lines that were in their group's pinned prefix at their start.",
            registry=registry,
        )
        self._engine = {
            kind: Counter(f"lmaas_engine_{kind}", words, registry=registry)
            for kind, words in (
                ("steps", "Steps of the engine."),
                ("busy_seconds", "Duration of the engine's steps."),
                ("computed_tokens", "Tokens computed by the engine's steps."),
                ("computed_prompt_tokens", "Of these, prompt tokens, lock-step padding included."),
                ("prompt_reads", "KV tokens read by prompt tokens."),
                ("decoded_tokens", "Tokens computed one a row, of ended rows too."),
                ("decode_reads", "KV tokens read by these."),
                ("unnamed_preemptions", "Preemptions that a server reports of no sequence."),
                ("retries", "Streams of a server that broke and were opened again."),
            )
        }
        self._moved = Counter(
            "lmaas_moved_sequences",
            "Sequences that went on on another engine, or on the next one, as theirs was lost.",
            registry=registry,
        )
        self._by_engine = {
            kind: Counter(f"lmaas_engine_{kind}", words, ["engine"], registry=registry)
            for kind, words in (
                ("submitted_sequences", "Sequences submitted to this engine, resumed ones too."),
                ("generated_tokens", "Tokens that this engine generated."),
            )
        }
        self._size = _histogram(
            "lmaas_batch_size", "Requests per batch.", BATCH_SIZE_BUCKETS, registry
        )
        self._wait = _histogram(
            "lmaas_wait_seconds", "From arrival to start.", SECONDS_BUCKETS, registry
        )
        self._first = _histogram(
            "lmaas_first_token_seconds", "From arrival to first token.", SECONDS_BUCKETS, registry
        )
        self._response = _histogram(
            "lmaas_response_seconds", "From arrival to end.", SECONDS_BUCKETS, registry
        )
        self._prediction = Histogram(
            "lmaas_prediction_seconds",
            "From arrival to the model's prediction, by what it has read.",
            ["source"],
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._decision = _histogram(
            "lmaas_decision_seconds",
            "Duration of one scheduling decision.",
            DECISION_SECONDS_BUCKETS,
            registry,
        )
        self._error = _histogram(
            "lmaas_prediction_error_tokens",
            "Absolute error of the predicted median length.",
            TOKEN_ERROR_BUCKETS,
            registry,
        )
        self._policy = Gauge(
            "lmaas_policy", "1 for the active policy.", ["name"], registry=registry
        )
        self._fallback = Gauge(
            "lmaas_policy_fallback",
            "1 while the policy falls back to order of arrival for this reason.",
            ["reason"],
            registry=registry,
        )
        self._up = Gauge("lmaas_part_up", "1 while this part answers.", ["part"], registry=registry)
        self._restarts: dict[str, int] = {}
        words = "Restarts of a part that died, or was killed since it hung."
        registry.register(_Counts("lmaas_part_restarts", words, "part", self._restarts))
        self._gauges: dict[str, Gauge] = {}
        for reason in FALLBACKS:
            self._fallback.labels(reason).set(0)

    def decided(self, seconds: float) -> None:
        """A scheduling decision took this long."""
        self._decision.observe(seconds)

    def predicted(self, source: str, seconds: float) -> None:
        """The model predicted a request's length this long after its arrival."""
        self._prediction.labels(source).observe(seconds)

    def submitted(self, engine: int, count: int) -> None:
        """Sequences were submitted to the engine of this number."""
        self._by_engine["submitted_sequences"].labels(engine).inc(count)

    def moved(self) -> None:
        """A sequence goes on whose engine was lost, one of several."""
        self._moved.inc()

    def stepped(self, step: Step, engine: int = 0) -> None:
        """An engine completed a step, or reported ends without one."""
        generated = sum(map(len, step.tokens.values()))
        self._by_engine["generated_tokens"].labels(engine).inc(generated)
        self.computed.generated += generated
        self._engine["steps"].inc(step.steps if step.computed else 0)
        self._engine["busy_seconds"].inc(step.took_s)
        self._engine["computed_tokens"].inc(step.computed)
        self._engine["unnamed_preemptions"].inc(step.unnamed_preemptions)
        self._engine["retries"].inc(step.retries)
        self.computed.prompt += step.work.prompt_tokens if step.work is not None else 0
        if step.work is not None:
            self._engine["computed_prompt_tokens"].inc(step.work.prompt_tokens)
            self._engine["prompt_reads"].inc(step.work.prompt_reads)
            self._engine["decoded_tokens"].inc(step.work.sequences)
            self._engine["decode_reads"].inc(step.work.kv_tokens)

    def dispatched(self, dispatch: Dispatch, waited_s: Iterable[float]) -> None:
        """A batch was started; `waited_s` has the wait of each request that starts with it.

        The requests of a split batch have started before.
        """
        self._starts.labels(dispatch.reason).inc()
        self._size.observe(len(dispatch.requests))
        for seconds in waited_s:
            self._wait.observe(seconds)

    def started_on_host(self, reason: HostReason) -> None:
        """A request started with its keys and values in host memory."""
        self._host_starts.labels(reason).inc()

    def pins_lost(self, count: int) -> None:
        """The engine released pinned prefixes for lack of memory."""
        self._pins_lost.inc(count)

    def saved(self, tokens: int) -> None:
        """Lines of jobs started whose groups' prefixes of this many tokens in all were pinned."""
        self._saved.inc(tokens)

    def split(self) -> None:
        """A lock-step batch ran out of memory."""
        self._splits.inc()

    def ended(self, state: RequestState, steps: int) -> None:
        """A request ended, this many engine steps after it was queued."""
        assert state.finished_s is not None
        outcome = state.finish_reason or "error"
        if isinstance(state.error, DeadlineUnreachable):
            outcome = GAVE_UP
            self._gave_up.labels(state.error.reason).inc()
        self._requests.labels(outcome, state.request.recorded_tier).inc()
        generated, read = len(state.tokens), len(state.prompt) if state.choice == 0 else 0
        self._tokens["prompt"].inc(read)
        self._tokens["generated"].inc(generated)
        self.tenants.ended(state.request.caller, read, generated, steps)
        self._preemptions.inc(state.preemptions)
        if state.lane == "batch":  # no client waits for a line of a job
            return
        self._response.observe(state.finished_s - state.arrived_s)
        if state.first_token_s is not None:
            self._first.observe(state.first_token_s - state.arrived_s)
        if outcome == "stop" and not state.forced:
            self._error.observe(abs(state.prediction.median - generated))

    def fallback(self, reason: str | None) -> None:
        """Set the reason why the policy falls back to order of arrival; None if it does not."""
        for known in FALLBACKS:
            self._fallback.labels(known).set(reason == known)

    def policy(self, name: str) -> None:
        """Set the active policy."""
        self._policy.clear()
        self._policy.labels(name).set(1)

    def parts(self, states: Mapping[str, str], restarts: Mapping[str, int]) -> None:
        """Set which parts answer, and how often each was restarted."""
        for part, state in states.items():
            self._up.labels(part).set(state in UP)
        self._restarts.update(restarts)

    def count_predictions(self, by_source: Mapping[str, int]) -> None:
        """Export these counts, read at each scrape. Call it once."""
        words = "Requests started, by the source of the length prediction that they went by."
        self.registry.register(_Counts("lmaas_predictions", words, "source", by_source))

    def count_embeddings(self, by_outcome: Mapping[str, int]) -> None:
        """Export these counts, read at each scrape. Call it once."""
        words = "User inputs by whether they were embedded, or shed since too many waited."
        self.registry.register(_Counts("lmaas_input_embeddings", words, "outcome", by_outcome))

    def count_texts(self, by_place: Mapping[str, int]) -> None:
        """Export these counts, read at each scrape. Call it once."""
        words = "Texts processed, by place: on the event loop, or in a thread; or given up."
        self.registry.register(_Counts("lmaas_texts", words, "ran", by_place))

    def count_job_faults(self, by_work: Mapping[str, int]) -> None:
        """Export these counts, read at each scrape. Call it once."""
        words = "Failures of work on batch jobs that nothing away explains, by the kind of work."
        self.registry.register(_Counts("lmaas_job_faults", words, "work", by_work))

    def count_history(self, by_event: Mapping[str, int]) -> None:
        """Export these counts, read at each scrape. Call it once."""
        words = (
            "What went wrong with history: requests lost with a killed gateway, failed writes of "
            "the journal and the spool, lines set aside, late embeddings dropped, old rows that "
            "could not be deleted."
        )
        self.registry.register(_Counts("lmaas_history_events", words, "event", by_event))

    def gauge(self, name: str, value: float | None, documentation: str) -> None:
        """Set a gauge; None becomes NaN."""
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, documentation, registry=self.registry)
        self._gauges[name].set(float("nan") if value is None else value)

    def engine_gauge(self, name: str, values: Iterable[float | None], documentation: str) -> None:
        """Set a gauge of each engine, by number; None becomes NaN."""
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, documentation, ["engine"], registry=self.registry)
        for number, value in enumerate(values):
            self._gauges[name].labels(number).set(float("nan") if value is None else value)


class _Counts(Collector):
    """Counts by one label that another part keeps."""

    def __init__(self, name: str, words: str, label: str, counts: Mapping[str, int]) -> None:
        self._name, self._words, self._label = name, words, label
        self._counts = counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        """One counter with a series for each value of the label."""
        family = CounterMetricFamily(self._name, self._words, labels=[self._label])
        for value, count in self._counts.items():
            family.add_metric([value], count)
        yield family


def _histogram(
    name: str, documentation: str, buckets: Iterable[float], registry: CollectorRegistry
) -> Histogram:
    return Histogram(name, documentation, buckets=tuple(buckets), registry=registry)
