"""The admin API as one router, behind the admin key."""

from typing import TypeVar

from litestar import Router
from litestar.di import Provide
from msgspec import Struct

from gateway.api.admin.apps import AppsController
from gateway.api.admin.engine import EngineController
from gateway.api.admin.keys import KeysController
from gateway.api.admin.policy import PolicyController
from gateway.api.admin.predictors import PredictorsController, TrainingRunsController
from gateway.api.admin.tenants import TenantsController
from gateway.api.envelope import provide_cursor
from gateway.api.guards import admin_guard
from gateway.prediction.registry import Registry
from gateway.prediction.runs import TrainingRuns
from gateway.tenancy.admin_key import AdminKey
from gateway.tenancy.apps import Apps
from gateway.tenancy.keys import ApiKeys
from gateway.tenancy.tenants import Tenants

T = TypeVar("T")


class AdminServices(Struct, frozen=True, kw_only=True):
    """What the admin API calls."""

    tenants: Tenants
    apps: Apps
    keys: ApiKeys
    registry: Registry
    runs: TrainingRuns


def admin_router(admin_key: AdminKey, services: AdminServices) -> Router:
    """Every route under `/admin`."""
    return Router(
        "/admin",
        route_handlers=[
            TenantsController,
            AppsController,
            KeysController,
            PredictorsController,
            TrainingRunsController,
            PolicyController,
            EngineController,
        ],
        guards=[admin_guard(admin_key)],
        dependencies={
            "cursor": Provide(provide_cursor),
            "tenants": _given(services.tenants),
            "apps": _given(services.apps),
            "keys": _given(services.keys),
            "registry": _given(services.registry),
            "runs": _given(services.runs),
        },
        tags=["Admin"],
        security=[{"bearer": []}],
    )


def _given(service: T) -> Provide:
    return Provide(lambda: service, sync_to_thread=False)
