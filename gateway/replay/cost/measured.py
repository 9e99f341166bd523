"""The engine that served a part of history, as measured while it served."""

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import select

from gateway.database.translation import Sessions, translated
from gateway.errors import InvalidRequest
from gateway.replay.cost.model import EngineModel, EngineShape, LinearCost, NamedEngine
from models import EngineCost

NO_COST = (
    "no cost of steps was measured on the engine that served these requests: give --engine FILE, "
    "which `lmaas calibrate --out FILE` measures, or --profile NAME"
)


async def served_engine(sessions: Sessions, served: Mapping[UUID, int]) -> NamedEngine:
    """The measured engine that served the most requests; `served` counts them by gateway.

    InvalidRequest if none of the gateways has measured its engine.
    """
    with translated():
        async with sessions() as session:
            costs = await session.scalars(
                select(EngineCost).where(EngineCost.gateway_id.in_(served))
            )
            found = max(costs, key=lambda cost: served[cost.gateway_id], default=None)
    if found is None:
        raise InvalidRequest(NO_COST)
    share = served[found.gateway_id] / sum(served.values())
    part = "" if share == 1 else f", where {share:.0%} of the requests were served"
    name = (
        f"{found.model} on {found.device} ({found.dtype}), as measured over {found.steps:,} steps "
        f"(error {found.error:.0%}){part}"
    )
    return NamedEngine(_model(found), name)


def _model(cost: EngineCost) -> EngineModel:
    shape = EngineShape(
        pages=cost.pages,
        page_tokens=cost.page_tokens,
        context_tokens=cost.context_tokens,
        max_sequences=cost.max_sequences,
        **({} if cost.step_tokens is None else {"step_tokens": cost.step_tokens}),
    )
    return EngineModel(
        cost=LinearCost(
            step_s=cost.step_s,
            prompt_token_s=cost.prompt_token_s,
            prompt_read_s=cost.prompt_read_s,
            sequence_s=cost.sequence_s,
            kv_token_s=cost.kv_token_s,
        ),
        shape=shape,
    )
