"""Versions of the predictor in Postgres: kept, listed, made active; and the runs that made them."""

import asyncio
from typing import Final, TypeAlias
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, transaction
from gateway.errors import NotFound
from gateway.prediction.artefact import checksum, decode
from models import Predictor, TrainingRun

CHANNEL: Final = "lmaas_predictors"  # NOTIFY with the model's name: another version is active
MOST_LISTED: Final = 100

Versions: TypeAlias = list[Predictor]
Runs: TypeAlias = list[TrainingRun]


class Registry:
    """What is known of versions and training runs, newest first."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def list(self, model: str | None = None, limit: int = MOST_LISTED) -> Versions:
        """The newest versions, without their bytes."""
        statement = select(Predictor).order_by(Predictor.id.desc()).limit(limit)
        if model is not None:
            statement = statement.where(Predictor.model == model)
        async with transaction(self._sessions) as session:
            return [*await session.scalars(statement)]

    async def show(self, predictor_id: UUID) -> Predictor:
        """One version, without its bytes. NotFound if there is none."""
        async with transaction(self._sessions) as session:
            return await _version(session, predictor_id)

    async def active(self, model: str) -> UUID | None:
        """The version of a model that is active."""
        statement = select(Predictor.id).where(Predictor.model == model, Predictor.active)
        async with transaction(self._sessions) as session:
            return await session.scalar(statement)

    async def artefact(self, predictor_id: UUID) -> bytes:
        """A version's bytes, as they are stored. NotFound if there is none."""
        statement = select(Predictor.artefact).where(Predictor.id == predictor_id)
        async with transaction(self._sessions) as session:
            stored = await session.scalar(statement)
        if stored is None:
            raise _no_version(predictor_id)
        return stored

    async def add(self, version: Predictor) -> Predictor:
        """Keep a new version, inactive."""
        version.checksum = checksum(version.artefact)
        async with transaction(self._sessions) as session:
            session.add(version)
        return version

    async def activate(self, predictor_id: UUID, by: str) -> Predictor:
        """Make a version the active one of its model, and tell all gateways after the commit.

        NotFound; PredictorRefused if its bytes are damaged or of another feature version, and
        the active one stays.
        """
        stored = await self.artefact(predictor_id)
        async with transaction(self._sessions) as session:
            version = await _version(session, predictor_id)
            await asyncio.to_thread(decode, stored, model_hash=version.model_hash)
            # Two activations at once wait for each other here, not for the unique index.
            await session.execute(
                text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
                {"name": f"{CHANNEL} {version.model}"},
            )
            await session.execute(
                update(Predictor)
                .where(Predictor.model == version.model, Predictor.active)
                .values(active=False)
            )
            version.active = True
            version.activated_at = func.now()
            version.activated_by = by
            await session.flush()
            await session.refresh(version, ["active", "activated_at"])
            await session.execute(
                text("SELECT pg_notify(:channel, :model)"),
                {"channel": CHANNEL, "model": version.model},
            )
        return version

    async def runs(self, model: str | None = None, limit: int = MOST_LISTED) -> Runs:
        """The newest training runs."""
        statement = select(TrainingRun).order_by(TrainingRun.id.desc()).limit(limit)
        if model is not None:
            statement = statement.where(TrainingRun.model == model)
        async with transaction(self._sessions) as session:
            return [*await session.scalars(statement)]

    async def run(self, run_id: UUID) -> TrainingRun:
        """One training run. NotFound if there is none."""
        async with transaction(self._sessions) as session:
            run = await session.get(TrainingRun, run_id)
        if run is None:
            raise NotFound(f"there is no training run {run_id}", param="run_id")
        return run


async def _version(session: AsyncSession, predictor_id: UUID) -> Predictor:
    version = await session.get(Predictor, predictor_id)
    if version is None:
        raise _no_version(predictor_id)
    return version


def _no_version(predictor_id: UUID) -> NotFound:
    return NotFound(f"there is no predictor {predictor_id}", param="predictor_id")
