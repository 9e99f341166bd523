"""Predictors and training runs over HTTP."""

import hashlib
from typing import Any

import httpx
import msgspec
import pytest

from gateway.database.errors import Sessions
from gateway.prediction.adaptation.conformal import NO_SCORES
from gateway.prediction.features.features import FEATURE_VERSION, INPUTS
from gateway.prediction.lifecycle.runs import TrainingRuns
from gateway.prediction.model.artefact import (
    AppLine,
    Artefact,
    Matrix,
    PrincipalAxes,
    TextSpace,
    UnseenApps,
    decode,
    encode,
)
from gateway.quantiles import LEVELS
from models import Predictor
from tests.integration.prediction.conftest import StockedRegistry

Client = httpx.AsyncClient


def an_artefact() -> bytes:
    """A well-formed version without training data."""
    empty = Matrix(0, 0, b"")
    return encode(
        Artefact(
            model="m",
            model_hash="h",
            feature_version=FEATURE_VERSION,
            inputs=list(INPUTS),
            levels=list(LEVELS),
            pooled=AppLine(0.0, 1.0, 1.0, 0),
            lines={},
            space=TextSpace(empty, empty, empty),
            kernels={},
            trees=[""] * len(LEVELS),
            mean="",
            unseen_apps=UnseenApps("", "", PrincipalAxes(empty, empty), [0.0] * len(LEVELS)),
            scores=NO_SCORES,
        )
    )


async def a_version(sessions: Sessions, **other: Any) -> Predictor:
    values: dict[str, Any] = {
        "model": "m",
        "model_hash": "h",
        "feature_version": FEATURE_VERSION,
        "artefact": an_artefact(),
        "metrics": {"tau": 0.7},
        "rows": 500,
        "created_by": "test",
    }
    return await StockedRegistry(sessions).add(Predictor(**values | other))


async def test_version_shows_its_metrics_and_range_and_not_its_bytes(
    client: Client, sessions: Sessions
) -> None:
    version = await a_version(sessions)
    shown = (await client.get(f"/admin/predictors/{version.id}")).json()
    assert (shown["metrics"], shown["rows"], shown["state"]) == ({"tau": 0.7}, 500, "inactive")
    assert shown["checksum"] == version.checksum.hex()
    assert "trained_from" in shown
    assert "artefact" not in shown


async def test_activation_replaces_the_active_version_and_can_be_taken_back(
    client: Client, sessions: Sessions
) -> None:
    first, second = await a_version(sessions), await a_version(sessions)
    for chosen in (first, second, first):
        response = await client.post(f"/admin/predictors/{chosen.id}/activate")
        assert response.status_code == 200
        assert response.json()["activated_by"] == "admin"
        listed = (await client.get("/admin/predictors")).json()["data"]
        active = [version["id"] for version in listed if version["state"] == "active"]
        assert active == [str(chosen.id)]


async def test_damaged_version_is_refused_and_the_active_one_stays(
    client: Client, sessions: Sessions
) -> None:
    good, damaged = await a_version(sessions), await a_version(sessions, artefact=b"damaged")
    await client.post(f"/admin/predictors/{good.id}/activate")
    response = await client.post(f"/admin/predictors/{damaged.id}/activate")
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "predictor_refused"
    assert (await client.get(f"/admin/predictors/{good.id}")).json()["state"] == "active"


async def test_newest_versions_come_first_and_a_limit_sets_has_more(
    client: Client, sessions: Sessions
) -> None:
    versions = [str((await a_version(sessions)).id) for _ in range(3)]
    page = (await client.get("/admin/predictors?limit=2")).json()
    assert [version["id"] for version in page["data"]] == versions[:0:-1]
    assert page["has_more"]


async def test_training_without_history_fails_with_the_reason(
    client: Client, runs: TrainingRuns
) -> None:
    started = await client.post("/admin/predictors")
    assert started.status_code == 202
    run = started.json()
    assert run["state"] == "queued"
    again = await client.post("/admin/predictors", json={"activate": False})
    assert again.status_code == 409
    await runs.finished()
    ended = (await client.get(f"/admin/training-runs/{run['id']}")).json()
    assert ended["state"] == "failed"
    assert ended["error"]
    (listed,) = (await client.get("/admin/training-runs")).json()["data"]
    assert listed == ended


@pytest.mark.parametrize("body", [{"activate": "yes"}, {"actviate": True}, []])
async def test_wrong_training_request_is_a_400(client: Client, body: object) -> None:
    response = await client.post("/admin/predictors", json=body)
    assert response.status_code == 400
    assert (await client.get("/admin/training-runs")).json()["data"] == []


async def test_roll_back_is_one_call_and_a_409_without_a_previous_version(
    client: Client, sessions: Sessions
) -> None:
    assert (await client.post("/admin/predictors/rollback")).status_code == 409
    first, second = await a_version(sessions), await a_version(sessions)
    for version in (first, second):
        await client.post(f"/admin/predictors/{version.id}/activate")
    back = (await client.post("/admin/predictors/rollback")).json()
    assert (back["id"], back["state"]) == (str(first.id), "active")
    assert (await client.get(f"/admin/predictors/{second.id}")).json()["replaced_id"] == back["id"]


async def test_exported_version_is_imported_with_its_checksum(
    client: Client, sessions: Sessions
) -> None:
    version = await a_version(sessions)
    exported = await client.get(f"/admin/predictors/{version.id}/export")
    assert exported.headers["content-type"] == "application/octet-stream"
    assert exported.headers["x-lmaas-checksum"] == hashlib.sha256(exported.content).hexdigest()
    imported = await client.post("/admin/predictors/import", content=exported.content)
    assert imported.status_code == 201
    imported_version = imported.json()
    assert (imported_version["state"], imported_version["checksum"]) == (
        "inactive",
        version.checksum.hex(),
    )
    assert imported_version["id"] != str(version.id)


def foreign() -> bytes:
    ours = decode(an_artefact(), model_hash="h")
    return encode(msgspec.structs.replace(ours, model_hash="elsewhere"))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (b"", "magic bytes"),
        (b"PK" + an_artefact(), "magic bytes"),
        (an_artefact()[:-1], "checksum does not match"),
        (foreign(), "trained for model hash elsewhere, not h"),
    ],
    ids=["empty", "another file", "cut off", "of another model"],
)
async def test_damaged_or_foreign_import_is_a_409_with_the_reason(
    client: Client, stored: bytes, message: str
) -> None:
    response = await client.post("/admin/predictors/import", content=stored)
    assert response.status_code == 409
    error = response.json()["error"]
    assert error["code"] == "predictor_refused"
    assert message in error["message"]
    assert (await client.get("/admin/predictors")).json()["data"] == []


async def test_comparison_shows_both_versions_or_too_little_history(
    client: Client, sessions: Sessions
) -> None:
    first, second = await a_version(sessions), await a_version(sessions, metrics={"tau": 0.8})
    compared = (await client.get(f"/admin/predictors/{first.id}/compare/{second.id}")).json()
    assert [version["metrics"]["tau"] for version in compared["versions"]] == [0.7, 0.8]
    assert compared["scorecards"] is None
    assert compared["why_not"] == "a comparison needs at least 20 finished requests, found 0"
    other = await a_version(sessions, model_hash="x")
    response = await client.get(f"/admin/predictors/{first.id}/compare/{other.id}")
    assert response.status_code == 409


async def test_run_is_cancelled_and_cannot_be_twice(client: Client, runs: TrainingRuns) -> None:
    run = (await client.post("/admin/predictors")).json()
    cancelled = await client.post(f"/admin/training-runs/{run['id']}/cancel")
    assert cancelled.status_code == 202
    assert cancelled.json()["cancelled_by"] == "admin"
    await runs.finished()
    ended = (await client.get(f"/admin/training-runs/{run['id']}")).json()
    assert (ended["state"], ended["error"]) == ("cancelled", "cancelled by admin")
    assert (await client.post(f"/admin/training-runs/{run['id']}/cancel")).status_code == 409


async def test_schedule_is_shown_and_set(client: Client) -> None:
    shown = (await client.get("/admin/training-schedule")).json()
    assert (shown["model"], shown["changed_by"]) == ("m", None)
    wanted = shown["schedule"] | {"every_s": 3_600.0, "drift": False}
    answer = await client.put("/admin/training-schedule", json=wanted)
    assert answer.status_code == 200
    assert (answer.json()["schedule"], answer.json()["changed_by"]) == (wanted, "admin")
    assert (await client.get("/admin/training-schedule")).json() == answer.json()


@pytest.mark.parametrize(
    ("field", "value"),
    [("every_s", 1), ("window", 10), ("tau_floor", 2), ("evry_s", 60), ("least_outcomes", "many")],
)
async def test_wrong_schedule_is_a_400_that_names_the_field(
    client: Client, field: str, value: object
) -> None:
    response = await client.put("/admin/training-schedule", json={field: value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
    assert (await client.get("/admin/training-schedule")).json()["changed_by"] is None
