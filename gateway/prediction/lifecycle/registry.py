"""Predictor versions in Postgres: storage, activation, roll-back, export and import."""

import asyncio
from collections.abc import Set as AbstractSet
from typing import Any, Final, TypeAlias
from uuid import UUID

import structlog
from sqlalchemy import Select, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, transaction
from gateway.errors import Conflict, NotFound, PredictorRefused
from gateway.history.audit import note
from gateway.prediction.lifecycle.run_log import mark_succeeded, run_not_found
from gateway.prediction.lifecycle.trial.trial import Trial
from gateway.prediction.model.artefact import checksum, decode, without_texts
from models import Predictor, TrainingRun
from models.base import new_id

log = structlog.get_logger()

CHANNEL: Final = "lmaas_predictors"  # NOTIFY with the model's name after its active version changed
MAX_LISTED: Final = 100
PORTION_BYTES: Final = 4 << 20

Versions: TypeAlias = list[Predictor]
Runs: TypeAlias = list[TrainingRun]


class Registry:
    """Versions and training runs, newest first.

    `embedder` is the id of the gateway's embedder: versions that read embeddings of another are not
    activated or imported. None: of any. With a `trial`, a version is tried before it is imported or
    activated: PredictorBroken if that fails.
    """

    def __init__(
        self, sessions: Sessions, *, embedder: str | None = None, trial: Trial | None = None
    ) -> None:
        self._sessions = sessions
        self._embedder = embedder
        self._trial = trial

    async def list(self, model: str | None = None, limit: int = MAX_LISTED) -> Versions:
        """The newest versions, without their artefacts."""
        statement = select(Predictor).order_by(Predictor.id.desc()).limit(limit)
        if model is not None:
            statement = statement.where(Predictor.model == model)
        async with transaction(self._sessions) as session:
            return [*await session.scalars(statement)]

    async def show(self, predictor_id: UUID) -> Predictor:
        """One version, without its artefact. NotFound."""
        async with transaction(self._sessions) as session:
            return await _version(session, predictor_id)

    async def active(self, model: str) -> UUID | None:
        """The id of a model's active version; None without one."""
        statement = select(Predictor.id).where(Predictor.model == model, Predictor.active)
        async with transaction(self._sessions) as session:
            return await session.scalar(statement)

    async def in_use(self, model: str) -> tuple[UUID, bytes] | None:
        """The id of a model's active version and the checksum of its artefact."""
        statement = select(Predictor.id, Predictor.checksum)
        statement = statement.where(Predictor.model == model, Predictor.active)
        async with transaction(self._sessions) as session:
            row = (await session.execute(statement)).one_or_none()
        return None if row is None else (row.id, row.checksum)

    async def forget_texts(self, apps: AbstractSet[UUID], by: str) -> int:
        """Remove the text kernels of some apps from every version; the number of versions changed.

        All gateways reload a changed active version. A damaged version, which is unusable, stays.
        """
        async with transaction(self._sessions) as session:
            ids = [*await session.scalars(select(Predictor.id))]
        changed = 0
        for predictor_id in ids:
            try:
                stored = await self.artefact(predictor_id)
                remaining = await asyncio.to_thread(without_texts, stored, apps)
            except (NotFound, PredictorRefused) as error:
                log.warning("predictor_not_read", id=str(predictor_id), reason=error.message)
                continue
            if remaining is not None:
                changed += 1
                await self._replace_artefact(predictor_id, remaining, by)
        return changed

    async def _replace_artefact(self, predictor_id: UUID, stored: bytes, by: str) -> None:
        async with transaction(self._sessions) as session:
            version = await _version(session, predictor_id)
            before = _audit_fields(version)
            version.artefact, version.checksum = stored, checksum(stored)
            after = _audit_fields(version)
            note(session, by, "predictor.texts_forgotten", predictor_id, before=before, after=after)
            await _notify_gateways(session, version.model)

    async def artefact(self, predictor_id: UUID) -> bytes:
        """A version's artefact as stored. NotFound."""
        async with transaction(self._sessions) as session:
            return await _stored(session, predictor_id)

    async def publish(self, version: Predictor, run_id: UUID, *, activate: bool) -> Predictor:
        """Store the version of a training run, mark the run succeeded; optionally activate.

        One transaction: Conflict if the run was cancelled or has finished.
        """
        version.checksum = checksum(version.artefact)
        async with transaction(self._sessions) as session:
            session.add(version)
            await session.flush()
            if await session.scalar(mark_succeeded(run_id, version.id)) is None:
                raise Conflict(f"training run {run_id} was cancelled")
            note(
                session,
                version.created_by,
                "predictor.trained",
                version.id,
                after=_audit_fields(version),
            )
            if activate:
                await _activate(session, version, version.created_by)
        return version

    async def activate(self, predictor_id: UUID, by: str) -> Predictor:
        """Make a version its model's active one; gateways are notified at the commit.

        NotFound; PredictorRefused if its artefact is damaged, has another feature version or reads
        the embeddings of another embedder, PredictorBroken: the active version stays.
        """
        await self._try_stored(predictor_id)
        async with transaction(self._sessions) as session:
            version = await self._usable_version(session, predictor_id, self._embedder)
            await _activate(session, version, by)
        return version

    async def roll_back(self, model: str, by: str) -> Predictor:
        """Activate the predecessor of the active version; repeated calls go further back.

        Conflict if there is none, or another was activated meanwhile; errors as in `activate`.
        """
        async with transaction(self._sessions) as session:
            before = await _predecessor(session, model)
        await self._try_stored(before)
        async with transaction(self._sessions) as session:
            await _lock(session, model)
            if await _predecessor(session, model) != before:
                raise Conflict(f"another version of model {model} was activated at the same time")
            version = await self._usable_version(session, before, self._embedder)
            await _activate(session, version, by, action="predictor.rolled_back")
        return version

    async def import_version(
        self, stored: bytes, *, model: str, model_hash: str, by: str
    ) -> Predictor:
        """Store an exported version as inactive.

        PredictorRefused if it is damaged, of another model, embedder or feature version;
        PredictorBroken.
        """
        await self._try(stored, model_hash)
        artefact = await asyncio.to_thread(
            decode, stored, model_hash=model_hash, embedder=self._embedder
        )
        version = Predictor(
            id=new_id(),
            model=model,
            model_hash=model_hash,
            feature_version=artefact.feature_version,
            artefact=stored,
            checksum=checksum(stored),
            metrics={"imported": True},
            rows=artefact.pooled.rows,
            created_by=by,
        )
        async with transaction(self._sessions) as session:
            session.add(version)
            await session.flush()
            note(session, by, "predictor.imported", version.id, after=_audit_fields(version))
        return version

    async def export_version(self, predictor_id: UUID, by: str) -> bytes:
        """A version's artefact, for import elsewhere. NotFound; PredictorRefused if damaged."""
        async with transaction(self._sessions) as session:
            version = await self._usable_version(session, predictor_id, embedder=None)
            note(session, by, "predictor.exported", predictor_id, after=_audit_fields(version))
            return await _stored(session, predictor_id)

    async def _try_stored(self, predictor_id: UUID) -> None:
        if self._trial is not None:
            stored = await self.artefact(predictor_id)
            await self._try(stored, (await self.show(predictor_id)).model_hash)

    async def _try(self, stored: bytes, model_hash: str) -> None:
        if self._trial is not None:
            await self._trial.check(stored, model_hash=model_hash, embedder=self._embedder)

    async def _usable_version(
        self, session: AsyncSession, predictor_id: UUID, embedder: str | None
    ) -> Predictor:
        """A version whose artefact is valid, also for this embedder. NotFound, PredictorRefused."""
        stored = await self.artefact(predictor_id)
        version = await _version(session, predictor_id)
        await asyncio.to_thread(decode, stored, model_hash=version.model_hash, embedder=embedder)
        return version

    async def runs(self, model: str | None = None, limit: int = MAX_LISTED) -> Runs:
        """The newest training runs."""
        statement = select(TrainingRun).order_by(TrainingRun.id.desc()).limit(limit)
        if model is not None:
            statement = statement.where(TrainingRun.model == model)
        async with transaction(self._sessions) as session:
            return [*await session.scalars(statement)]

    async def run(self, run_id: UUID) -> TrainingRun:
        """One training run. NotFound."""
        async with transaction(self._sessions) as session:
            run = await session.get(TrainingRun, run_id)
        if run is None:
            raise run_not_found(run_id)
        return run


async def _lock(session: AsyncSession, model: str) -> None:
    """Serialise activations of a model, before they conflict on the unique index."""
    await session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
        {"name": f"{CHANNEL} {model}"},
    )


async def _activate(
    session: AsyncSession, version: Predictor, by: str, *, action: str = "predictor.activated"
) -> None:
    """Make a version the active one; a roll-back keeps its predecessor link."""
    await _lock(session, version.model)
    active = await session.scalar(_active(version.model))
    if active is not None and active.id != version.id:
        active.active = False
        await session.flush()  # first: at most one may be active
        if action == "predictor.activated":
            version.replaced_id = active.id
    version.active = True
    version.activated_at = func.now()
    version.activated_by = by
    await session.flush()
    await session.refresh(version, ["active", "activated_at"])
    before = {"active": None if active is None else str(active.id)}
    note(session, by, action, version.id, before=before, after={"active": str(version.id)})
    await _notify_gateways(session, version.model)


async def _notify_gateways(session: AsyncSession, model: str) -> None:
    """Notify all gateways when the transaction commits."""
    await session.execute(
        text("SELECT pg_notify(:channel, :model)"), {"channel": CHANNEL, "model": model}
    )


async def _predecessor(session: AsyncSession, model: str) -> UUID:
    """The version to which a roll-back returns. Conflict if there is none."""
    active = await session.scalar(_active(model))
    if active is None or active.replaced_id is None:
        raise Conflict(f"no version of model {model} was active before")
    return active.replaced_id


def _active(model: str) -> Select[Predictor]:
    return select(Predictor).where(Predictor.model == model, Predictor.active)


def _audit_fields(version: Predictor) -> dict[str, Any]:
    """The fields of a version in the audit trail."""
    return {
        "model": version.model,
        "model_hash": version.model_hash,
        "checksum": version.checksum.hex(),
        "rows": version.rows,
    }


async def _version(session: AsyncSession, predictor_id: UUID) -> Predictor:
    version = await session.get(Predictor, predictor_id)
    if version is None:
        raise _no_version(predictor_id)
    return version


async def _stored(session: AsyncSession, predictor_id: UUID) -> bytes:
    """A version's artefact, read in portions; nobody replaces it meanwhile. NotFound.

    A connection keeps as much memory as its largest message took, and stays in the pool.
    """
    this = Predictor.id == predictor_id
    length = await session.scalar(
        select(func.length(Predictor.artefact)).where(this).with_for_update(read=True)
    )
    if length is None:
        raise _no_version(predictor_id)
    portions = bytearray()
    while len(portions) < length:
        portion = func.substring(Predictor.artefact, len(portions) + 1, PORTION_BYTES)
        portions += (await session.execute(select(portion).where(this))).scalar_one()
    return bytes(portions)


def _no_version(predictor_id: UUID) -> NotFound:
    return NotFound(f"there is no predictor {predictor_id}", param="predictor_id")
