"""The Litestar application: wiring only."""

from importlib.metadata import version
from typing import NamedTuple

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from gateway.api.admin.routes import AdminServices, admin_router
from gateway.api.body import BodyLimits, bounded_request
from gateway.api.cors import cors
from gateway.api.errors import exception_handlers
from gateway.api.guards import api_key_guard, provide_caller
from gateway.api.health import HealthController
from gateway.api.http_metrics import HttpMetrics
from gateway.api.metrics import MetricsController
from gateway.api.openai.batches.routes import BatchesController
from gateway.api.openai.ceilings import provide_ceiling
from gateway.api.openai.chat import ChatController
from gateway.api.openai.completions import CompletionsController
from gateway.api.openai.files.routes import files_router
from gateway.api.openai.length_predictions import LengthPredictionsController
from gateway.api.openai.served_models import ModelsController
from gateway.api.openai.timeouts import provide_timeouts
from gateway.api.openai.usage import OwnUsageController
from gateway.api.openapi import complete_document
from gateway.api.request_id import IdentifyingApp
from gateway.api.schema_page import schema_plugins
from gateway.dashboard.routes import Dashboard
from gateway.deletion.deletions import Deletions
from gateway.files.upload import Uploads
from gateway.generation.operation.commands import OperatorCommands
from gateway.history.audit import AuditTrail
from gateway.history.listing import RequestList
from gateway.history.requests import RequestHistory
from gateway.jobs.batches.listing import AllBatches
from gateway.node import GatewayNode
from gateway.prediction.lifecycle.drift_series import DriftSeries
from gateway.prediction.lifecycle.erasure import SampleErasure
from gateway.prediction.lifecycle.schedule import Schedules
from gateway.prediction.lifecycle.served_quality import ServedQualities
from gateway.tenancy.apps import Apps
from gateway.tenancy.keys import ApiKeys
from gateway.tenancy.scopes import AdminAccess, ScopedKeys
from gateway.tenancy.tenants import Tenants
from gateway.usage.estimate import CostEstimates
from gateway.usage.limits.limits import Limits
from gateway.usage.prices import Prices
from gateway.usage.report import UsageReport
from gateway.usage.request import RequestUsages


class GatewayApp(NamedTuple):
    """The application, and the page that it serves."""

    app: Litestar
    dashboard: Dashboard


def build_app(node: GatewayNode, metrics: HttpMetrics) -> GatewayApp:
    """The routes over a running node; `metrics` counts their responses."""
    settings, sessions = node.settings, node.database.sessions
    admin = AdminServices(
        tenants=Tenants(sessions, node.changes.follow),
        deletions=Deletions(sessions, node.changes.follow),
        apps=Apps(sessions, node.service.check_instruction, node.changes.follow),
        keys=ApiKeys(sessions, node.authenticator, node.limits.follower.follow),
        scoped_keys=ScopedKeys(sessions, key_lookup_s=settings.key_lookup_s),
        registry=node.registry,
        runs=node.runs,
        schedules=Schedules(sessions),
        comparison=node.comparison,
        series=DriftSeries(sessions, node.runs.model),
        erasure=SampleErasure(sessions),
        logs=node.logs,
        trail=AuditTrail(sessions),
        requests=RequestHistory(sessions),
        finished=RequestList(sessions),
        batches=AllBatches(sessions),
        files=node.files,
        prices=Prices(sessions, node.limits.follower.follow),
        limits=Limits(sessions, node.limits.follower.follow),
        usage=UsageReport(sessions),
        commands=OperatorCommands(node.service.scheduler, node.history),
    )
    uploads, usages = Uploads(node.files), RequestUsages(sessions)
    costs = CostEstimates(sessions)
    admission = AdminAccess(node.admin_key, admin.scoped_keys)
    dashboard = Dashboard(
        node.service,
        node.parts,
        admin,
        admission,
        node.authenticator,
        ServedQualities(sessions, node.runs.model),
        settings,
    )
    app = IdentifyingApp(
        route_handlers=[
            HealthController,
            MetricsController,
            Router(
                "/v1",
                route_handlers=[
                    BatchesController,
                    ChatController,
                    CompletionsController,
                    LengthPredictionsController,
                    ModelsController,
                    OwnUsageController,
                    files_router(settings.max_file_bytes),
                ],
                guards=[api_key_guard(node.authenticator)],
                dependencies={
                    "caller": Provide(provide_caller),
                    "timeouts": Provide(provide_timeouts),
                    "ceiling": Provide(provide_ceiling),
                },
                security=[{"bearer": []}],
                tags=["OpenAI"],
            ),
            admin_router(node.admin_key, admin),
            *dashboard.routers(),
        ],
        dependencies={
            "service": Provide(lambda: node.service, sync_to_thread=False),
            "parts": Provide(lambda: node.parts, sync_to_thread=False),
            "jobs": Provide(lambda: node.jobs, sync_to_thread=False),
            "files": Provide(lambda: node.files, sync_to_thread=False),
            "uploads": Provide(lambda: uploads, sync_to_thread=False),
            "usage": Provide(lambda: admin.usage, sync_to_thread=False),
            "usages": Provide(lambda: usages, sync_to_thread=False),
            "finished": Provide(lambda: admin.finished, sync_to_thread=False),
            "costs": Provide(lambda: costs, sync_to_thread=False),
            "admission": Provide(lambda: admission, sync_to_thread=False),
        },
        request_class=bounded_request(lambda: _body_limits(node), node.service.workers),
        exception_handlers=exception_handlers,
        request_max_body_size=None,  # the request class has the limit: it follows the engine
        cors_config=cors(settings.cors_origins),
        metrics=metrics,
        logging_config=None,  # ours is set up at the start; Litestar's logs each call of httpx
        openapi_config=OpenAPIConfig(
            title="LMaaS gateway",
            version=version("lmaas"),
            use_handler_docstrings=True,
            render_plugins=schema_plugins(),
            components=Components(
                security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}
            ),
        ),
    )
    complete_document(app)
    return GatewayApp(app, dashboard)


def _body_limits(node: GatewayNode) -> BodyLimits:
    """The limits by the context of the engine that runs now."""
    context_tokens = node.service.scheduler.engine.served.context_tokens
    return BodyLimits.of(context_tokens, node.settings.max_body_values)
