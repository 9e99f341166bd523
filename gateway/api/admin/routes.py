"""The router of the admin API, guarded by the admin key and scoped keys."""

from typing import TypeVar

from litestar import Router
from litestar.di import Provide
from msgspec import Struct

from gateway.api.admin.actor import admission_guard, provide_actor
from gateway.api.admin.apps import AllAppsController, AppsController
from gateway.api.admin.audit import AuditController
from gateway.api.admin.engine import EngineController
from gateway.api.admin.keys import KeysController
from gateway.api.admin.policy import PolicyController
from gateway.api.admin.predictors import PredictorsController
from gateway.api.admin.queue import QueueController, RequestsController
from gateway.api.admin.samples import DriftController, LogsController, SamplesController
from gateway.api.admin.scoped_keys import ScopedKeysController
from gateway.api.admin.tenants import TenantsController
from gateway.api.admin.training import TrainingRunsController, TrainingScheduleController
from gateway.api.admin.usage.batches import AllBatchesController
from gateway.api.admin.usage.limits import LimitsController
from gateway.api.admin.usage.prices import PricesController
from gateway.api.admin.usage.requests import FinishedRequestsController
from gateway.api.admin.usage.usage import UsageController
from gateway.api.envelope import provide_cursor
from gateway.api.query import check_query
from gateway.deletion.deletions import Deletions
from gateway.files.store import FileStore
from gateway.generation.operation.commands import OperatorCommands
from gateway.history.audit import AuditTrail
from gateway.history.listing import RequestList
from gateway.history.requests import RequestHistory
from gateway.jobs.batches.listing import AllBatches
from gateway.prediction.lifecycle.comparison import VersionComparer
from gateway.prediction.lifecycle.drift_series import DriftSeries
from gateway.prediction.lifecycle.erasure import SampleErasure
from gateway.prediction.lifecycle.log_import import LogImport
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.lifecycle.runs import TrainingRuns
from gateway.prediction.lifecycle.schedule import Schedules
from gateway.tenancy.admin_key import AdminKey
from gateway.tenancy.apps import Apps
from gateway.tenancy.keys import ApiKeys
from gateway.tenancy.scopes import AdminAccess, ScopedKeys
from gateway.tenancy.tenants import Tenants
from gateway.usage.limits.limits import Limits
from gateway.usage.prices import Prices
from gateway.usage.report import UsageReport

T = TypeVar("T")


class AdminServices(Struct, frozen=True, kw_only=True):
    """The services that the admin API calls; each is a dependency of its field's name."""

    tenants: Tenants
    deletions: Deletions
    apps: Apps
    keys: ApiKeys
    scoped_keys: ScopedKeys
    registry: Registry
    runs: TrainingRuns
    schedules: Schedules
    comparison: VersionComparer
    series: DriftSeries
    erasure: SampleErasure
    logs: LogImport
    trail: AuditTrail
    requests: RequestHistory
    finished: RequestList
    batches: AllBatches
    files: FileStore
    prices: Prices
    limits: Limits
    usage: UsageReport
    commands: OperatorCommands

    def dependencies(self) -> dict[str, Provide]:
        """Each service as the dependency of its field's name."""
        return {name: _given(getattr(self, name)) for name in self.__struct_fields__}


def admin_router(admin_key: AdminKey, services: AdminServices) -> Router:
    """Every route under `/admin`."""
    return Router(
        "/admin",
        route_handlers=[
            TenantsController,
            AppsController,
            AllAppsController,
            KeysController,
            ScopedKeysController,
            PredictorsController,
            TrainingRunsController,
            TrainingScheduleController,
            LogsController,
            SamplesController,
            DriftController,
            AuditController,
            PolicyController,
            EngineController,
            QueueController,
            RequestsController,
            FinishedRequestsController,
            AllBatchesController,
            PricesController,
            LimitsController,
            UsageController,
        ],
        guards=[admission_guard(AdminAccess(admin_key, services.scoped_keys))],
        before_request=check_query,
        dependencies={
            "cursor": Provide(provide_cursor),
            "actor": Provide(provide_actor),
            **services.dependencies(),
        },
        tags=["Admin"],
        security=[{"bearer": []}],
    )


def _given(service: T) -> Provide:
    return Provide(lambda: service, sync_to_thread=False)
