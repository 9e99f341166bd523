"""Predictors and training runs over HTTP."""

from typing import Any

import httpx
import pytest

from gateway.database.errors import Sessions
from gateway.prediction.artefact import Artefact, Axes, Line, Matrix, encode
from gateway.prediction.calibration import NO_SCORES
from gateway.prediction.features import FEATURE_VERSION, INPUTS
from gateway.prediction.messages import LEVELS
from gateway.prediction.registry import Registry
from gateway.prediction.runs import TrainingRuns
from models import Predictor

Client = httpx.AsyncClient


def an_artefact() -> bytes:
    """A version that was fitted on nothing, in the right form."""
    empty = Matrix(0, 0, b"")
    axes = Axes(empty, empty)
    return encode(
        Artefact(
            model="m",
            model_hash="h",
            feature_version=FEATURE_VERSION,
            inputs=list(INPUTS),
            levels=list(LEVELS),
            pooled=Line(0.0, 1.0, 1.0, 0),
            pooled_levels=[0.0] * len(LEVELS),
            lines={},
            instruction_axes=axes,
            user_axes=axes,
            trees=[""] * len(LEVELS),
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
    return await Registry(sessions).add(Predictor(**values | other))


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


async def test_newest_versions_come_first_and_a_limit_tells_of_more(
    client: Client, sessions: Sessions
) -> None:
    versions = [str((await a_version(sessions)).id) for _ in range(3)]
    page = (await client.get("/admin/predictors?limit=2")).json()
    assert [version["id"] for version in page["data"]] == versions[:0:-1]
    assert page["has_more"]


async def test_training_without_history_is_a_run_that_fails_and_says_why(
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
