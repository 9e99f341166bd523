"""Checks the length predictor: its process, its version, and how good its predictions are."""

import asyncio
import math
from collections.abc import Iterator
from typing import Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from gateway.diagnosis.finding import Finding, failure, ok, warning
from gateway.diagnosis.server import RunningServer
from gateway.errors import StartupFailure
from gateway.prediction.features.embedder_model import EmbedderModel, find_embedder
from gateway.prediction.serving.process_client import PredictorClient
from gateway.settings import Settings

ANSWER_S: Final = 5.0
START_S: Final = 60.0
MANY_STARTS: Final = 100  # from then on, training has something to read
LEAST_COVERAGE: Final = 0.75  # of the 0.9 quantile


def check_predictor(settings: Settings, server: RunningServer | None) -> Iterator[Finding]:
    """Of a running gateway its health; else whether the process starts and answers."""
    if server is None:
        try:
            embedder = find_embedder(settings.embedder)
        except StartupFailure as error:
            remedy = "name a folder that SentenceTransformer.save wrote, or unset LMAAS_EMBEDDER"
            yield failure("predictor", error.message, remedy)
        else:
            yield asyncio.run(_starts(embedder))
        return
    if not server.url:
        yield warning("predictor", "not checked: the gateway does not listen yet", "see `server`")
        return
    with httpx.Client(base_url=server.url, timeout=ANSWER_S, trust_env=False) as client:
        try:
            health = client.get("/health/ready").json()
            samples = _samples(client.get("/metrics").raise_for_status().text)
        except (httpx.HTTPError, ValueError):
            yield failure("predictor", "the gateway does not say how it is", "see `server`")
            return
    version = health.get("predictor_version")
    if health.get("predictor") != "connected":
        yield failure(
            "predictor",
            "its process is away, so lengths are predicted from history alone",
            "see the gateway's log for predictor_process_ended, and predictor_process_hung before "
            "it; free memory, if it was killed without the latter",
        )
    elif unusable := health.get("unusable_version"):
        yield warning(
            "predictor",
            f"the active version {unusable} cannot be loaded; "
            f"{version or 'the history of lengths'} predicts in its place",
            "see the gateway's log for predictor_version_refused; then "
            "`lmaas admin predictors rollback`, or train a version",
        )
    else:
        yield ok("predictor", f"its process answers; version {version or 'none yet'}")
    yield from _health(settings, samples, str(health.get("predictions", "")))


async def _starts(embedder: EmbedderModel) -> Finding:
    client = PredictorClient(embedder)
    client.start()
    try:
        async with asyncio.timeout(START_S):
            await client.ready()
    except TimeoutError:
        return failure(
            "predictor",
            f"its process was not ready within {START_S:.0f} s",
            "run `python -m gateway.prediction.serving.process` and report its output",
        )
    finally:
        await client.close()
    return ok("predictor", "its process starts and answers")


def _samples(text: str) -> dict[str, float]:
    """The values of `/metrics`, by name and label values."""
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _health(settings: Settings, samples: dict[str, float], verdict: str) -> Iterator[Finding]:
    """Sources, order and coverage of the newest predictions; `verdict` is the health's."""
    prefix = "lmaas_predictions_total/"
    sources = {
        name.removeprefix(prefix): value
        for name, value in samples.items()
        if name.startswith(prefix) and value
    }
    tau = samples.get("lmaas_prediction_tau", math.nan)
    coverage = samples.get("lmaas_prediction_coverage", math.nan)
    mix = ", ".join(f"{value:.0f} from {name}" for name, value in sources.items()) or "none yet"
    quality = "" if math.isnan(tau) else f"; τ {tau:.2f}, {coverage:.0%} within the 0.9 quantile"
    found = [
        *_sources(verdict, sum(sources.values())),
        *_drift(settings, tau, coverage, samples),
    ]
    yield from found or [ok("predictions", f"{mix}{quality}")]


def _sources(verdict: str, total: float) -> Iterator[Finding]:
    if verdict == "fallback":
        yield warning(
            "predictions",
            "more than 5 % of requests that waited started without the model's prediction",
            "see lmaas_prediction_seconds at /metrics: the predictor's process needs a core of its "
            "own, or more requests come than it can score",
        )
    elif verdict == "untrained" and total >= MANY_STARTS:
        yield warning(
            "predictions",
            f"no version is trained, all {total:.0f} came from history or a prior",
            "run `lmaas admin predictors train`",
        )


def _drift(
    settings: Settings, tau: float, coverage: float, samples: dict[str, Any]
) -> Iterator[Finding]:
    retrain = "run `lmaas admin predictors train`; `lmaas admin drift` shows the course"
    if samples.get("lmaas_policy_fallback/untrusted"):
        yield warning(
            "predictions",
            f"their order is not trusted (τ {tau:.2f}, LMAAS_TAU_FLOOR {settings.tau_floor:g}), so "
            "requests start in order of arrival",
            retrain,
        )
    if coverage < LEAST_COVERAGE:
        yield warning(
            "predictions", f"only {coverage:.0%} of lengths are within the 0.9 quantile", retrain
        )
