"""The Litestar application: wiring only."""

from importlib.metadata import version
from typing import Final

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from gateway.api.admin.routes import AdminServices, admin_router
from gateway.api.errors import exception_handlers
from gateway.api.guards import api_key_guard, provide_caller
from gateway.api.health import HealthController
from gateway.api.metrics import MetricsController
from gateway.api.openai.chat import ChatController
from gateway.api.openai.completions import CompletionsController
from gateway.api.openai.length_predictions import LengthPredictionsController
from gateway.api.openai.served_models import ModelsController
from gateway.api.openai.timeouts import provide_timeouts
from gateway.api.request_id import RequestId
from gateway.history.audit import AuditTrail
from gateway.history.requests import RequestHistory
from gateway.node import GatewayNode
from gateway.prediction.lifecycle.drift_series import DriftSeries
from gateway.prediction.lifecycle.erasure import SampleErasure
from gateway.prediction.lifecycle.schedule import Schedules
from gateway.tenancy.apps import Apps
from gateway.tenancy.keys import ApiKeys
from gateway.tenancy.scopes import AdminAccess, ScopedKeys
from gateway.tenancy.tenants import Tenants

MAX_BODY_BYTES: Final = 16 << 20  # bytes


def build_app(node: GatewayNode) -> Litestar:
    """The routes over a running node."""
    sessions = node.database.sessions
    admin = AdminServices(
        tenants=Tenants(sessions),
        apps=Apps(sessions),
        keys=ApiKeys(sessions, node.authenticator),
        scoped_keys=ScopedKeys(sessions),
        registry=node.registry,
        runs=node.runs,
        schedules=Schedules(sessions),
        comparison=node.comparison,
        series=DriftSeries(sessions, node.runs.model),
        erasure=SampleErasure(sessions),
        logs=node.logs,
        trail=AuditTrail(sessions),
        requests=RequestHistory(sessions),
    )
    admission = AdminAccess(node.admin_key, admin.scoped_keys)
    return Litestar(
        route_handlers=[
            HealthController,
            MetricsController,
            Router(
                "/v1",
                route_handlers=[
                    ChatController,
                    CompletionsController,
                    LengthPredictionsController,
                    ModelsController,
                ],
                guards=[api_key_guard(node.authenticator)],
                dependencies={
                    "caller": Provide(provide_caller),
                    "timeouts": Provide(provide_timeouts),
                },
                security=[{"bearer": []}],
                tags=["OpenAI"],
            ),
            admin_router(node.admin_key, admin),
        ],
        dependencies={
            "service": Provide(lambda: node.service, sync_to_thread=False),
            "admission": Provide(lambda: admission, sync_to_thread=False),
        },
        middleware=[RequestId()],
        exception_handlers=exception_handlers,
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,  # set up at the start; Litestar's would log each call of httpx
        openapi_config=OpenAPIConfig(
            title="LMaaS gateway",
            version=version("lmaas"),
            use_handler_docstrings=True,
            components=Components(
                security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}
            ),
        ),
    )
