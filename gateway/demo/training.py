"""Trains the length predictor through the admin API."""

import time
from typing import Any, Final

from msgspec import Struct

from gateway.demo.admin import Admin
from gateway.errors import LmaasError

POLL_S: Final = 0.2
ACTIVATION_TIMEOUT_S: Final = 60.0  # for the gateway to load an activated version


def active_version(admin: Admin) -> str | None:
    """The id of the version that the gateway predicts with; None before the first training."""
    version: str | None = admin.get("/health/ready")["predictor_version"]
    return version


class TrainingResult(Struct, frozen=True):
    """How many `rows` a training run read, and how many are the demo tenant's (`own_rows`).

    `activated` is False if the new version was no better than the active one.
    """

    rows: int
    own_rows: int
    activated: bool


def train(admin: Admin, tenant: str) -> TrainingResult:
    """Train on history and, if the version was activated, wait until the gateway uses it.

    LmaasError if the training run fails.
    """
    run = admin.post("/admin/predictors")
    while run["state"] not in {"succeeded", "failed", "cancelled"}:
        time.sleep(POLL_S)
        run = admin.get(f"/admin/training-runs/{run['id']}")
    if run["state"] != "succeeded":
        raise LmaasError(f"the training run {run['state']}: {run['error']}")
    version = admin.get(f"/admin/predictors/{run['predictor_id']}")
    activated = version["state"] == "active"
    if activated:
        _await_activation(admin, version)
    own = run["samples"]["tenants"].get(tenant, {"read": 0})
    return TrainingResult(run["rows_read"], own["read"], activated)


def _await_activation(admin: Admin, version: dict[str, Any]) -> None:
    deadline_s = time.monotonic() + ACTIVATION_TIMEOUT_S
    while active_version(admin) != version["id"]:
        if time.monotonic() > deadline_s:
            raise LmaasError(f"the gateway did not load version {version['id']}")
        time.sleep(POLL_S)
