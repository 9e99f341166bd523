"""The same requests replayed on an engine of the cost that the gateway has learned of vLLM."""

import asyncio

import msgspec
import numpy as np
from sqlalchemy import select

from benchmarks.harness.contenders import FCFS, OUR_ORACLE, OURS
from benchmarks.harness.upstream_servers import STEP_TOKENS
from benchmarks.live.gateway_process import GatewayProcess
from gateway.database.connection import Database
from gateway.quantiles import Floats
from gateway.replay.cost.model import EngineModel, EngineShape, LinearCost
from gateway.replay.saturation import saturated_rate_s
from gateway.replay.simulator import replay
from gateway.replay.workload.predictions import with_predictions
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options, PolicyName, build_policy
from models import EngineCost


def learned_engine(gateway: GatewayProcess, running: int) -> EngineModel:
    """VLLM as the gateway has learned its steps, for this number of sequences at once.

    RuntimeError before it has.
    """
    found = asyncio.run(_cost(gateway.database_url))
    if found is None:
        raise RuntimeError("the gateway has not learned the cost of vLLM's steps yet")
    return EngineModel(
        cost=LinearCost(
            found.step_s,
            found.prompt_token_s,
            found.sequence_s,
            found.kv_token_s,
            found.prompt_read_s,
        ),
        shape=EngineShape(
            pages=found.pages,
            page_tokens=found.page_tokens,
            step_tokens=STEP_TOKENS,
            max_sequences=running,
            context_tokens=found.context_tokens,
        ),
    )


def paced(engine: EngineModel, workload: Workload, rate_s: float) -> EngineModel:
    """The engine at the pace at which FCFS is saturated at this rate."""
    assert isinstance(engine.cost, LinearCost)
    factor = saturated_rate_s(workload, engine, Options()) / rate_s
    return msgspec.structs.replace(engine, cost=engine.cost.scaled(factor))


def replayed_s(engine: EngineModel, workload: Workload) -> dict[str, Floats]:
    """Response times, (n,), of FCFS, of ours with its predictions and with the true lengths."""
    oracle = with_predictions(workload, "oracle", np.random.default_rng(0))
    sides: dict[str, tuple[Workload, PolicyName]] = {
        FCFS: (workload, FCFS),
        OURS: (workload, OURS),
        OUR_ORACLE: (oracle, OURS),
    }
    found = {}
    for name, (requests, policy) in sides.items():
        results = replay(requests, build_policy(policy, Options()), engine, tau_floor=None)
        found[name] = results.finished_s - workload.arrived_s
    return found


async def _cost(url: str) -> EngineCost | None:
    database = await Database.open(url)
    try:
        async with database.sessions() as session:
            statement = select(EngineCost).order_by(EngineCost.measured_at.desc()).limit(1)
            found: EngineCost | None = await session.scalar(statement)
            return found
    finally:
        await database.close()
