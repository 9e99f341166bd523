"""Trains the predictor of a benchmark's gateway on a log, imported through the admin API."""

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from gateway.cli.admin.client import AdminClient
from gateway.cli.admin.learning import LINES
from gateway.demo.training import TrainingResult, train
from gateway.prediction.lifecycle.log_format import LogLine

TENANT: Final = "demo"  # of the benchmark's API key
APP: Final = "playground"


def learn_log(admin: AdminClient, log: Callable[[str], Iterable[LogLine]]) -> TrainingResult:
    """Import a log of the benchmark's app, whose id `log` gets, and train on all of history."""
    app = _id_of(admin, f"/admin/tenants/{_tenant(admin)}/apps", APP)
    import_log(admin, log(app))
    return learn(admin)


def import_log(admin: AdminClient, lines: Iterable[LogLine]) -> None:
    """Import a log into history."""
    body = b"\n".join(map(msgspec.json.encode, lines))
    admin.send("/admin/predictors/samples", body, LINES)


def learn(admin: AdminClient) -> TrainingResult:
    """Train on all of history."""
    return train(admin, _tenant(admin))


def described(trained: TrainingResult) -> str:
    """What predicts after a training run."""
    by = "a version" if trained.activated else "history, which no version beat,"
    return f"lengths by {by} from {trained.rows} rows"


def _tenant(admin: AdminClient) -> str:
    return _id_of(admin, "/admin/tenants", TENANT)


def _id_of(admin: AdminClient, path: str, name: str) -> str:
    found: dict[str, Any] = next(each for each in admin.all(path) if each["name"] == name)
    return str(found["id"])
