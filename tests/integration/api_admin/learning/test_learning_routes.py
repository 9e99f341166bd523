"""Training data over HTTP: opt-out, erasure, imported logs, drift, and their audit trail."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import numpy as np
import pytest
from sqlalchemy import select

from gateway.database.errors import Sessions
from gateway.generation.service import GenerationService
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.prediction.features.embedder_model import find_embedder
from gateway.prediction.features.features import FEATURE_VERSION, NAMES
from gateway.prediction.lifecycle import log_import
from gateway.prediction.lifecycle.log_import import LogImport
from gateway.prediction.serving.warm_start import recent_outcomes
from gateway.prediction.training.samples import read_samples
from models import RequestRecord
from tests.conftest import PATIENCE_S, Builder
from tests.integration.api_admin.conftest import WORDS

Client = httpx.AsyncClient
FEATURES = np.zeros(len(NAMES), dtype=np.float32).tobytes()


async def steps(client: Client, **query: str) -> list[tuple[str, str, str]]:
    """Actor, action and subject of audit entries, newest first."""
    listed = (await client.get("/admin/audit", params=query)).json()["data"]
    return [(step["actor"], step["action"], step["subject"]) for step in listed]


async def test_opt_out_and_opt_in_are_in_the_audit_trail(client: Client, build: Builder) -> None:
    tenant = await build.tenant()
    path = f"/admin/tenants/{tenant.id}"
    assert (await client.get(path)).json()["learning"] is True
    for learning in (False, False, True):
        answer = await client.patch(path, json={"learning": learning})
        assert (answer.status_code, answer.json()["learning"]) == (200, learning)
    assert (await client.get("/admin/tenants")).json()["data"][0]["learning"] is True
    assert await steps(client) == [
        *[("admin", "tenant.changed", str(tenant.id))] * 2,
        ("admin", "tenant.created", str(tenant.id)),
    ]
    response = await client.patch(path, json={"learning": "no"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "learning")


async def test_erasure_counts_its_rows_and_does_not_write_the_user_into_the_trail(
    client: Client,
    build: Builder,
    sessions: Sessions,
    tmp_path: Path,
    a_record: Callable[..., Record],
) -> None:
    tenant = await build.tenant()
    writer = HistoryWriter(sessions, tmp_path)
    for user in ("ursula", "uwe", None):
        learned = {"features": FEATURES, "feature_version": FEATURE_VERSION}
        writer.record(a_record(tenant_id=tenant.id, end_user=user, **learned))
    await writer.flush()
    path = f"/admin/tenants/{tenant.id}/samples"
    for query, rows in (({"user": "ursula"}, 1), ({"user": "ursula"}, 0), ({}, 2), ({}, 0)):
        erased = await client.delete(path, params=query)
        assert erased.json() == {"rows": rows, "instructions": 0, "predictors": 0}
    trail = (await client.get("/admin/audit")).text
    assert "ursula" not in trail
    assert (await steps(client, subject=str(tenant.id)))[:-1] == [
        ("admin", "samples.erased", str(tenant.id))
    ] * 4
    assert [row.outcome.end_user for row in await recent_outcomes(sessions, "model")] == [None] * 3


def a_log(*lines: dict[str, Any]) -> bytes:
    return b"\n".join(json.dumps(line).encode() for line in lines)


async def test_imported_log_is_read_by_training_with_its_embeddings(
    client: Client, build: Builder, sessions: Sessions
) -> None:
    app = await build.app(name="mail", instruction="Answer the mail.")
    log = a_log(
        {"app": "mail", "input": "When do we meet", "output": "At ten o'clock", "user": "ursula"},
        {"app": str(app.id), "input": "Where", "tokens": 7, "instruction": "Be short."},
        {"app": "mail", "input": "Explain all", "tokens": 90, "max_tokens": 90},
    )
    added = await client.post("/admin/predictors/samples", content=log)
    assert (added.status_code, added.json()) == (201, {"rows": 3, "apps": {str(app.id): 3}})
    samples, report = await read_samples(sessions, "m")
    assert samples.tokens.tolist() == [3, 7, 90]
    assert samples.censored.tolist() == [False, False, True]
    assert report["tenants"][str(app.tenant_id)]["read"] == 3
    assert np.isfinite(samples.inputs.text).all()
    assert samples.inputs.embedded.all()
    assert len(samples.inputs.instructions) == 2
    assert np.isfinite(samples.inputs.instructions).all()
    async with sessions() as session:
        rows = (await session.scalars(select(RequestRecord))).all()
    assert {row.prediction_source for row in rows} == {"imported"}
    assert {row.end_user for row in rows} == {"ursula", None}
    assert (await steps(client))[:-2] == [("admin", "samples.imported", "m")]


async def test_log_is_imported_at_once_where_no_text_is_embedded(
    build: Builder, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_import, "INSTRUCTIONS_TIMEOUT_S", 2 * PATIENCE_S)
    await build.app(name="mail", instruction="Answer the mail.")
    off = find_embedder("off")
    logs = LogImport(sessions, model="m", counting=WORDS, embedder=off)
    async with asyncio.timeout(PATIENCE_S):
        added = await logs.add(a_log({"app": "mail", "input": "Where", "tokens": 7}), by="olga")
    assert added.rows == 1
    samples, _ = await read_samples(sessions, "m", embedder=off)
    assert np.isfinite(samples.inputs.text).all()
    assert not samples.inputs.embedded.any()


async def test_invalid_lines_are_listed_and_nothing_is_imported(
    client: Client, build: Builder, sessions: Sessions
) -> None:
    first, second = await build.tenant(), await build.tenant()
    await build.app(first, name="mail")
    for tenant in (first, second):
        await build.app(tenant, name="chat")
    await build.app(second, name="diary")
    await client.patch(f"/admin/tenants/{second.id}", json={"learning": False})
    log = a_log(
        {"app": "mail", "input": "a", "tokens": 1},
        {"app": "unknown", "input": "a", "tokens": 1},
        {"app": "mail", "input": "a"},
        {"app": "chat", "input": "a", "tokens": 1},
        {"app": "diary", "input": "a", "tokens": 1},
        {"app": str(uuid4()), "input": "a", "tokens": 1},
    )
    refused = await client.post("/admin/predictors/samples", content=log)
    assert refused.status_code == 400
    lines = refused.json()["error"]["message"].splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == [f"line {n}" for n in (2, 3, 4, 5, 6)]
    for line, reason in zip(
        lines[1:],
        (
            "there is no app 'unknown'",
            "either `output`",
            "several apps",
            "opted out",
            "there is no",
        ),
        strict=True,
    ):
        assert reason in line
    async with sessions() as session:
        assert (await session.scalars(select(RequestRecord))).all() == []


async def test_drift_series_has_coverage_and_tau_per_time_bucket(
    client: Client, sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    writer, app, other = HistoryWriter(sessions, tmp_path), UUID(int=1), UUID(int=2)
    now = datetime.now(UTC)

    def served(hours_ago: float, median: float, tokens: int, **given: object) -> None:
        fields = {
            "model": "m",
            "app_id": app,
            "prediction_source": "model",
            "arrived_at": now - timedelta(hours=hours_ago),
            "quantiles": [1.0, 1.0, median, median, 2 * median, 3 * median],
            "generation_tokens": tokens,
        }
        writer.record(a_record(**{**fields, **given}))

    for n in range(1, 21):
        served(3.5, n, n)  # right
        served(0.5, n, 50 - n)  # upside down, and often too short
        served(0.5, n, n, app_id=other)
        served(1.5, n, n, prediction_source="prior")
        served(1.5, n, n, censored=True)
    await writer.flush()
    query: dict[str, Any] = {"hours": 4, "buckets": 4}
    series = (await client.get("/admin/drift", params=query | {"app": str(app)})).json()
    assert [bucket["outcomes"] for bucket in series["buckets"]] == [20, 0, 0, 20]
    right, upside_down = series["buckets"][0], series["buckets"][-1]
    assert (right["tau"], right["coverage"]) == (pytest.approx(1), 1)
    assert (upside_down["tau"], upside_down["coverage"]) == (pytest.approx(-1), 0.2)
    assert series["buckets"][1]["tau"] is None
    assert series["trustworthy"] is True
    assert (series["verdict"], series["outcomes"], series["least_outcomes"]) == ("unknown", 0, 100)
    assert series["version"] is None
    every = (await client.get("/admin/drift", params=query)).json()["buckets"][-1]
    assert every["outcomes"] == 40
    assert (await client.get("/admin/drift?buckets=0")).status_code == 400


async def test_verdict_on_predictions_is_the_one_that_scheduling_goes_by(
    client: Client, service: GenerationService, a_record: Callable[..., Record]
) -> None:
    """τ lies between the schedule's floor, 0.1, and that of the policy, 0.2."""
    random, version = np.random.default_rng(2), uuid4()
    for length in range(1, 301):
        median = length + 300 * float(random.normal()) + 2_000
        quantiles = [1.0, 1.0, median, median, median, median]
        service.drift.observe(
            a_record(predictor_id=version, quantiles=quantiles, generation_tokens=length)
        )
    quality = service.drift.quality()
    assert quality is not None
    assert 0.1 < quality.tau < 0.2
    found = (await client.get("/admin/drift")).json()
    assert (found["verdict"], found["trustworthy"]) == ("untrusted", False)


async def test_audit_trail_is_paged(client: Client, build: Builder) -> None:
    tenant = await build.tenant()
    for learning in (False, True, False):
        await client.patch(f"/admin/tenants/{tenant.id}", json={"learning": learning})
    page = (await client.get("/admin/audit?limit=2")).json()
    assert page["has_more"]
    assert [step["after"] for step in page["data"]] == [{"learning": False}, {"learning": True}]
    older = await client.get("/admin/audit", params={"before": page["data"][-1]["id"]})
    last, _ = older.json()["data"]
    assert (last["before"], last["after"]) == ({"learning": True}, {"learning": False})
