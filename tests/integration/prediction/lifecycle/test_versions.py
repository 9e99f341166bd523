from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace
from sqlalchemy import text, update

from gateway.database.errors import Sessions
from gateway.errors import Conflict, NotFound, PredictorRefused
from gateway.history.audit import AuditTrail
from gateway.prediction.lifecycle import registry as lifecycle_registry
from gateway.prediction.lifecycle.erasure import SampleErasure
from gateway.prediction.lifecycle.listener import PredictorListener
from gateway.prediction.messages import PredictionRequest
from gateway.prediction.model.artefact import decode, encode
from gateway.prediction.serving.predictor import LengthPredictor
from models import Predictor
from tests.conftest import Builder
from tests.integration.prediction.conftest import StockedRegistry

Version = Callable[..., Predictor]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
async def listener(
    registry: StockedRegistry, predictor: LengthPredictor, postgres_url: str
) -> AsyncIterator[PredictorListener]:
    """A listener that would not see a change in time by polling."""
    listener = PredictorListener(registry, predictor, postgres_url, poll_s=3_600)
    await listener.start()
    yield listener
    await listener.close()


async def test_one_version_of_a_model_is_active(
    registry: StockedRegistry, a_version: Version
) -> None:
    first, second = await registry.add(a_version()), await registry.add(a_version())
    other = await registry.add(a_version(model="other"))
    for version in (first, other, second):
        activated = await registry.activate(version.id, by="olga")
        assert (activated.active, activated.activated_by) == (True, "olga")
        assert activated.activated_at is not None
    assert await registry.active("demo") == second.id
    assert await registry.active("other") == other.id
    assert [each.active for each in await registry.list("demo")] == [True, False]
    assert [each.id for each in await registry.list()] == [other.id, second.id, first.id]


@pytest.mark.usefixtures("listener")
async def test_activated_version_is_used_without_a_restart_and_rolled_back(
    registry: StockedRegistry,
    predictor: LengthPredictor,
    a_version: Version,
    eventually: Eventually,
) -> None:
    first, second = await registry.add(a_version()), await registry.add(a_version())
    for version in (first, second, first):
        await registry.activate(version.id, by="test")
        await eventually(lambda version=version: predictor.active == version.id)


async def test_version_whose_notification_was_lost_is_found_by_polling(
    *,
    registry: StockedRegistry,
    sessions: Sessions,
    predictor: LengthPredictor,
    postgres_url: str,
    a_version: Version,
    eventually: Eventually,
) -> None:
    polling = PredictorListener(registry, predictor, postgres_url, poll_s=0.05)
    await polling.start()
    version = await registry.add(a_version())
    async with sessions.begin() as session:
        await (await session.connection()).execute(
            update(Predictor).where(Predictor.id == version.id).values(active=True)
        )
    await eventually(lambda: predictor.active == version.id)
    await polling.close()


async def test_version_that_the_database_cannot_read_hinders_no_start(
    registry: StockedRegistry,
    predictor: LengthPredictor,
    postgres_url: str,
    sessions: Sessions,
    a_version: Version,
) -> None:
    version = await registry.add(a_version())
    await registry.activate(version.id, by="olga")
    listener = PredictorListener(registry, predictor, postgres_url, poll_s=3_600)
    rename = "ALTER TABLE predictors RENAME COLUMN {} TO {}"
    async with sessions.begin() as session:
        await session.execute(text(rename.format("artefact", "away")))
    try:
        await listener.start()
        assert predictor.active != version.id
    finally:
        await listener.close()
        async with sessions.begin() as session:
            await session.execute(text(rename.format("away", "artefact")))


@pytest.mark.parametrize("portion", [1, 7, 1 << 20])
async def test_version_is_read_in_portions(
    registry: StockedRegistry, a_version: Version, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    stored = bytes(range(256)) + b"\0\0"
    version = await registry.add(a_version(artefact=stored))
    monkeypatch.setattr(lifecycle_registry, "PORTION_BYTES", portion)
    assert await registry.artefact(version.id) == stored
    with pytest.raises(NotFound):
        await registry.artefact(uuid4())


async def test_damaged_version_cannot_be_activated(
    registry: StockedRegistry, a_version: Version, artefact: bytes
) -> None:
    sound = await registry.add(a_version())
    damaged = await registry.add(a_version(artefact=artefact[:-9]))
    await registry.activate(sound.id, by="test")
    with pytest.raises(PredictorRefused, match="damaged"):
        await registry.activate(damaged.id, by="test")
    assert await registry.active("demo") == sound.id


async def test_damaged_version_that_is_active_is_refused_and_the_previous_stays(
    *,
    registry: StockedRegistry,
    predictor: LengthPredictor,
    listener: PredictorListener,
    a_version: Version,
    artefact: bytes,
    sessions: Sessions,
) -> None:
    sound = await registry.add(a_version())
    await registry.activate(sound.id, by="test")
    await listener.follow()
    damaged = await registry.add(a_version(artefact=artefact[:-9]))
    async with sessions.begin() as session:  # past the registry, as a careless hand might
        await (await session.connection()).execute(update(Predictor).values(active=False))
        await (await session.connection()).execute(
            update(Predictor).where(Predictor.id == damaged.id).values(active=True)
        )
    await listener.follow()
    assert predictor.active == sound.id


async def test_version_of_another_model_hash_is_not_used(
    registry: StockedRegistry,
    predictor: LengthPredictor,
    listener: PredictorListener,
    a_version: Version,
    artefact: bytes,
) -> None:
    sound = await registry.add(a_version())
    await registry.activate(sound.id, by="test")
    await listener.follow()
    decoded = decode(artefact, model_hash="abc")
    foreign = encode(replace(decoded, model_hash="xyz"))
    version = await registry.add(a_version(artefact=foreign, model_hash="xyz"))
    await registry.activate(version.id, by="test")
    await listener.follow()
    assert predictor.active == sound.id


async def test_unknown_version_is_not_found(registry: StockedRegistry) -> None:
    for call in (registry.show, registry.artefact, registry.run):
        with pytest.raises(NotFound):
            await call(uuid4())
    with pytest.raises(NotFound):
        await registry.activate(uuid4(), by="test")


async def test_rolling_back_leads_from_version_to_version_to_the_first(
    registry: StockedRegistry, a_version: Version, sessions: Sessions
) -> None:
    first, second, third = [await registry.add(a_version()) for _ in range(3)]
    for version in (first, second, third):
        await registry.activate(version.id, by="olga")
    for before in (second, first):
        assert (await registry.roll_back("demo", by="otto")).id == before.id
        assert await registry.active("demo") == before.id
    with pytest.raises(Conflict, match="no version of model demo was active before"):
        await registry.roll_back("demo", by="otto")
    (step, *_) = await AuditTrail(sessions).list(1)
    assert (step.actor, step.action, step.subject) == (
        "otto",
        "predictor.rolled_back",
        str(first.id),
    )
    assert (step.before, step.after) == ({"active": str(second.id)}, {"active": str(first.id)})


async def test_roll_back_to_a_damaged_version_is_refused_and_the_active_one_stays(
    registry: StockedRegistry, a_version: Version, artefact: bytes, sessions: Sessions
) -> None:
    first, second = await registry.add(a_version()), await registry.add(a_version())
    for version in (first, second):
        await registry.activate(version.id, by="olga")
    async with sessions.begin() as session:
        await (await session.connection()).execute(
            update(Predictor).where(Predictor.id == first.id).values(artefact=artefact[:-9])
        )
    with pytest.raises(PredictorRefused, match="damaged"):
        await registry.roll_back("demo", by="otto")
    assert await registry.active("demo") == second.id


async def test_exported_version_is_imported_inactive_and_scores_the_same(
    registry: StockedRegistry, a_version: Version, artefact: bytes
) -> None:
    version = await registry.add(a_version())
    stored = await registry.export_version(version.id, by="olga")
    taken = await registry.import_version(stored, model="demo", model_hash="abc", by="otto")
    assert stored == artefact
    assert taken.checksum == version.checksum
    assert (taken.active, taken.created_by, taken.rows) == (False, "otto", 120)
    await registry.activate(taken.id, by="otto")
    assert await registry.active("demo") == taken.id


@pytest.mark.parametrize("place", [0, 20, 60, -1])
async def test_damaged_import_is_refused_and_nothing_kept(
    registry: StockedRegistry, artefact: bytes, place: int
) -> None:
    damaged = bytearray(artefact)
    damaged[place] ^= 1
    with pytest.raises(PredictorRefused):
        await registry.import_version(bytes(damaged), model="demo", model_hash="abc", by="otto")
    with pytest.raises(PredictorRefused, match="trained for model hash abc, not xyz"):
        await registry.import_version(artefact, model="demo", model_hash="xyz", by="otto")
    assert await registry.list() == []


@pytest.mark.usefixtures("listener")
async def test_erased_texts_leave_every_version_also_the_one_at_work(
    registry: StockedRegistry,
    predictor: LengthPredictor,
    sessions: Sessions,
    artefact: bytes,
    a_version: Version,
    eventually: Eventually,
    a_prediction_request: Callable[..., PredictionRequest],
    build: Builder,
) -> None:
    whole = decode(artefact, model_hash="abc")
    kernel = whole.kernels[UUID(int=1)]
    app = await build.app()
    both = encode(replace(whole, kernels={app.id: kernel, UUID(int=1): kernel}))
    theirs, ours = await registry.add(a_version(artefact=both)), await registry.add(a_version())
    await registry.activate(theirs.id, by="test")
    await eventually(lambda: predictor.active == theirs.id)
    loads = predictor.counts.activations

    erased = await SampleErasure(sessions).erase(app.tenant_id, None, by="olga")
    assert erased.predictors == 1
    left = decode(await registry.artefact(theirs.id), model_hash="abc")
    assert set(left.kernels) == {UUID(int=1)}
    assert left.trees == whole.trees
    assert await registry.artefact(ours.id) == artefact
    await eventually(lambda: predictor.counts.activations == loads + 1)
    assert (await predictor.predict_by_model(a_prediction_request())).newest.predictor == theirs.id
    steps = await AuditTrail(sessions).list(2)
    assert [step.action for step in steps] == ["samples.erased", "predictor.texts_forgotten"]
    assert (await SampleErasure(sessions).erase(app.tenant_id, None, by="olga")).predictors == 0
