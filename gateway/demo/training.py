"""Trains the length predictor through the admin API."""

import time
from typing import Any, Final

from msgspec import Struct

from gateway.demo.admin import Admin
from gateway.errors import LmaasError

POLL_S: Final = 0.2
PICKUP_S: Final = 60.0  # for the gateway to load a version that was activated


def active_version(admin: Admin) -> str | None:
    """The version at work in this gateway; None before the first training."""
    version: str | None = admin.get("/health/ready")["predictor_version"]
    return version


class Learned(Struct, frozen=True):
    """What a training run read: all `rows`, and of these the demo tenant's `own_rows`.

    `activated` is False where the new version was no better than the one at work.
    """

    rows: int
    own_rows: int
    activated: bool


def train(admin: Admin, tenant: str) -> Learned:
    """Train on history, and wait until a version that was activated is at work.

    LmaasError where the training run fails.
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
        _await_pickup(admin, version)
    own = run["samples"]["tenants"].get(tenant, {"read": 0})
    return Learned(run["rows_read"], own["read"], activated)


def _await_pickup(admin: Admin, version: dict[str, Any]) -> None:
    until_s = time.monotonic() + PICKUP_S
    while active_version(admin) != version["id"]:
        if time.monotonic() > until_s:
            raise LmaasError(f"the gateway did not take up version {version['id']}")
        time.sleep(POLL_S)
