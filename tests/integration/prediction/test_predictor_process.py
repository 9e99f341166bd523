import asyncio
import itertools
import math
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import psutil
import pytest
import uvloop
from msgspec.structs import replace
from structlog.testing import capture_logs

from gateway.child_process import child_environment
from gateway.database.connection import Database
from gateway.errors import PredictorRefused, Unavailable
from gateway.history.late_embeddings import LateEmbeddings
from gateway.history.record import Record
from gateway.prediction.features.embedder_model import find_embedder
from gateway.prediction.features.features import NAMES
from gateway.prediction.features.text_encoder import TEXT_DIMS
from gateway.prediction.messages import Prediction, PredictionRequest
from gateway.prediction.model.artefact import decode, encode
from gateway.prediction.serving import heartbeat, process_client
from gateway.prediction.serving.frames import (
    LoadVersion,
    PredictorReply,
    Ready,
    ScoreRequest,
    VersionLoaded,
    encode_frame,
    read_reply,
)
from gateway.prediction.serving.kept_version import KeptVersion
from gateway.prediction.serving.open_prediction import OpenPrediction
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.prediction.serving.process_client import (
    COMMAND,
    ENVIRONMENT,
    REPLY_TIMEOUT_S,
    PredictorClient,
)
from gateway.prediction.training.scorecard import ROUNDING
from gateway.quantiles import P90
from tests.conftest import PATIENCE_S
from tests.unread_pipe import unread_pipe

BuildRequest = Callable[..., PredictionRequest]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]


def vector(stored: bytes | None) -> np.ndarray:
    assert stored is not None
    return np.frombuffer(stored, np.float16).astype(float)


async def embedded(predictor: LengthPredictor, request: PredictionRequest) -> OpenPrediction:
    """The prediction, once its text is embedded: asked again where that was late, and dropped."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            opened = await predictor.predict_by_model(request)
            with suppress(TimeoutError):
                async with asyncio.timeout(REPLY_TIMEOUT_S):
                    while opened.newest.embeddings.user_input is None:
                        await asyncio.sleep(0.02)
                    return opened


async def test_prediction_returns_vectors_of_text_and_instruction(
    predictor: LengthPredictor, a_prediction_request: BuildRequest
) -> None:
    found = (await embedded(predictor, a_prediction_request("The cat sleeps."))).newest.embeddings
    assert len(vector(found.text)) == TEXT_DIMS
    assert found.embedder == predictor.embedder.id
    for embedding in (found.user_input, found.instruction):
        assert np.linalg.norm(vector(embedding)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("text", ["\ud800 broken \x00", "word " * 100_000, ""])
async def test_any_text_is_embedded(
    predictor: LengthPredictor, a_prediction_request: BuildRequest, text: str
) -> None:
    found = await embedded(predictor, a_prediction_request(text, instruction="\udfff"))
    assert np.isfinite(vector(found.newest.embeddings.user_input)).all()


async def test_without_a_version_the_length_history_predicts(
    database: Database, a_prediction_request: BuildRequest, a_record: Callable[..., Record]
) -> None:
    new = LengthPredictor(model="demo", model_hash="abc", budget_s=60, sessions=database.sessions)
    found = (await new.predict_by_model(a_prediction_request(max_tokens=100))).newest
    assert (found.source, found.embeddings.text) == ("prior", None)
    assert found.median == pytest.approx(10)
    app = uuid4()
    for _ in range(20):
        new.observe(a_record(model="demo", app_id=app, generation_tokens=70))
    found = (await new.predict_by_model(a_prediction_request(app=app, max_tokens=100))).newest
    assert found.source == "app"
    assert found.median == pytest.approx(70, rel=0.1)


async def test_length_history_covers_nine_answers_in_ten(
    database: Database, a_prediction_request: BuildRequest, a_record: Callable[..., Record]
) -> None:
    """Three in ten are cut off at `max_tokens`: a P90 just below it would cover seven."""
    new = LengthPredictor(model="demo", model_hash="abc", budget_s=60, sessions=database.sessions)
    app, covered = uuid4(), []
    for number in range(120):
        cut_off = number % 10 in {3, 6, 9}
        tokens = 100 if cut_off else 10 + number % 10
        found = (await new.predict_by_model(a_prediction_request(app=app, max_tokens=100))).newest
        covered.append(tokens <= found.quantiles[P90] * (1 + ROUNDING))
        new.observe(
            a_record(
                model="demo",
                app_id=app,
                generation_tokens=tokens,
                censored=cut_off,
                prediction_source=found.source,
                features=found.features,
                feature_version=found.feature_version,
            )
        )
    assert sum(covered[40:]) >= 0.9 * len(covered[40:])


async def test_embeddings_that_come_after_the_end_of_an_answer_are_kept(
    predictor: LengthPredictor,
    a_prediction_request: BuildRequest,
    a_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: dict[UUID, list[LateEmbeddings]] = {}
    monkeypatch.setattr(
        predictor, "_keep_late", lambda late: kept.setdefault(late.id, []).append(late)
    )
    async with asyncio.timeout(PATIENCE_S):
        for attempt in itertools.count():  # asked again where the embedder was late
            opened = predictor.predict(a_prediction_request(f"a dog, {attempt} cats"))
            record = a_record(model="demo")
            predictor.observe(record, opened)  # ended before any reply
            while record.id not in kept:
                await asyncio.sleep(0.02)
            if kept[record.id][0].user_input is not None:
                break
    (late,) = kept[record.id]
    assert (late.arrived_at, late.embedder) == (record.arrived_at, predictor.embedder.id)
    assert len(vector(late.text)) == TEXT_DIMS
    assert np.linalg.norm(vector(late.user_input)) == pytest.approx(1, abs=1e-3)


async def test_killed_process_loses_no_prediction_and_restarts_with_its_version(
    predictor: LengthPredictor,
    a_prediction_request: BuildRequest,
    artefact: bytes,
    eventually: Eventually,
) -> None:
    version = uuid4()
    await predictor.activate(version, artefact)
    before = (await predictor.predict_by_model(a_prediction_request("one two three four"))).newest
    assert (before.source, before.predictor) == ("model", version)

    client = predictor._client
    killed = client.pid
    assert killed is not None
    pending = [
        asyncio.create_task(predictor.predict_by_model(a_prediction_request(f"number {each}")))
        for each in range(64)
    ]
    await asyncio.sleep(0)  # the requests are in flight
    os.kill(killed, signal.SIGKILL)
    answers = [opened.newest for opened in await asyncio.gather(*pending)]
    assert all(1 <= each.median <= each.upper <= 500 for each in answers)
    assert any(each.source != "model" for each in answers)
    assert predictor.counts.timed_out > 0

    await eventually(lambda: client.pid not in {None, killed})
    await predictor.ready()
    after = (await predictor.predict_by_model(a_prediction_request("one two three four"))).newest
    assert (after.source, after.predictor) == ("model", version)
    assert after.quantiles[2] == pytest.approx(before.quantiles[2], rel=0.3)


async def test_process_that_hangs_is_restarted_and_requests_go_by_history_meanwhile(
    predictor: LengthPredictor,
    a_prediction_request: BuildRequest,
    artefact: bytes,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = uuid4()
    await predictor.activate(version, artefact)
    hung = predictor._client.pid
    assert hung is not None
    with capture_logs() as logs:
        os.kill(hung, signal.SIGSTOP)  # it neither answers nor ends
        opened = predictor.predict(a_prediction_request("one two"))
        assert opened.newest.source != "model"
        with monkeypatch.context() as hurried:
            hurried.setattr(heartbeat, "BEAT_S", 0.05)
            await eventually(lambda: predictor._client.pid != hung)
        await predictor.ready()
    assert await opened.scored(PATIENCE_S) is opened.newest  # the model will not answer
    assert opened.newest.source != "model"
    events = [(line["event"], line["log_level"], line.get("pid")) for line in logs]
    assert ("predictor_process_hung", "warning", hung) in events
    after = (await predictor.predict_by_model(a_prediction_request("one two"))).newest
    assert (after.source, after.predictor) == ("model", version)


async def test_embedding_revises_the_prediction_of_a_version_that_reads_it(
    predictor: LengthPredictor,
    a_prediction_request: BuildRequest,
    reading_artefact: bytes,
) -> None:
    version = uuid4()
    await predictor.activate(version, reading_artefact)
    request = a_prediction_request("A text that is quite new.")
    scored: list[Prediction] = []
    predictor.predict(request).follow(scored.append)
    revised = (await embedded(predictor, request)).newest
    by_text = scored[0]
    assert (by_text.predictor, by_text.stage) == (version, "text")
    assert (revised.predictor, revised.stage) == (version, "embeddings")
    assert revised.label == "model+embeddings"
    assert by_text.first_scored
    assert revised.first_scored == by_text.first_scored
    assert revised.median != pytest.approx(by_text.median, rel=0.01)


async def test_version_of_another_embedder_is_refused_with_the_reason(
    predictor: LengthPredictor, reading_artefact: bytes
) -> None:
    version = decode(reading_artefact, model_hash="abc")
    assert version.embedder == predictor.embedder.id
    other = encode(replace(version, embedder="elsewhere@1"))
    active = predictor.active
    with pytest.raises(PredictorRefused, match="reads embeddings of elsewhere@1"):
        await predictor.activate(uuid4(), other)
    assert predictor.active == active


async def test_damaged_artefact_is_refused_and_the_previous_stays(
    predictor: LengthPredictor, a_prediction_request: BuildRequest, artefact: bytes
) -> None:
    version = uuid4()
    await predictor.activate(version, artefact)
    damaged, other = artefact[:-1] + bytes([artefact[-1] ^ 1]), uuid4()
    with pytest.raises(PredictorRefused, match="damaged"):
        await predictor.activate(other, damaged)
    assert (predictor.active, predictor.unusable) == (version, other)
    assert (await predictor.predict_by_model(a_prediction_request())).newest.predictor == version
    await predictor.activate(version, artefact)
    assert predictor.unusable is None


async def test_process_refuses_an_unreadable_version(
    predictor: LengthPredictor, a_prediction_request: BuildRequest, artefact: bytes
) -> None:
    version = uuid4()
    await predictor.activate(version, artefact)
    with pytest.raises(PredictorRefused, match="not a predictor"):
        await predictor._client.load(uuid4(), "abc", b"from elsewhere")
    assert (await predictor.predict_by_model(a_prediction_request())).newest.predictor == version


async def test_calibration_moves_the_upper_quantile_with_the_outcomes(
    predictor: LengthPredictor,
    a_prediction_request: BuildRequest,
    artefact: bytes,
    a_record: Callable[..., Record],
) -> None:
    version = uuid4()
    await predictor.activate(version, artefact)
    text = "one two three four five six"
    before = (await predictor.predict_by_model(a_prediction_request(text))).newest
    for _ in range(600):
        predictor.observe(
            a_record(
                model="demo",
                app_id=a_prediction_request().app,
                generation_tokens=60,
                predictor_id=version,
                features=before.features,
            )
        )
    after = (await predictor.predict_by_model(a_prediction_request(text))).newest
    assert before.upper < 20
    assert after.upper == pytest.approx(60, rel=0.25)


async def test_outcome_before_the_score_teaches_the_version_once_it_comes(
    predictor: LengthPredictor,
    a_prediction_request: BuildRequest,
    artefact: bytes,
    a_record: Callable[..., Record],
) -> None:
    """Short answers end before their score: a version that learned from the others alone would
    take all answers for long.
    """
    version = uuid4()
    await predictor.activate(version, artefact)
    opened = predictor.predict(a_prediction_request())
    by_history = opened.newest
    assert (by_history.predictor, by_history.stage, opened.awaits_score) == (None, None, True)
    record = a_record(
        model="demo",
        app_id=a_prediction_request().app,
        generation_tokens=3,
        features=by_history.features,
        feature_version=by_history.feature_version,
        quantiles=list(by_history.quantiles),
    )
    predictor.observe(record, opened)
    assert predictor.drift.version != version
    by_model = await opened.scored(PATIENCE_S)
    assert (by_model.predictor, by_model.label) == (version, "model")
    assert by_model.features != by_history.features
    assert (predictor.drift.version, predictor.drift.outcomes) == (version, 1)
    assert not opened.late


async def test_version_activated_during_a_start_is_the_one_that_predicts(
    artefact: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the version in use is read, and before it is loaded, another is activated."""
    before, after = uuid4(), uuid4()
    client = PredictorClient(find_embedder("off"))
    await client.load(before, "abc", artefact)
    loop, read = asyncio.get_running_loop(), KeptVersion.read

    def interrupted(kept: KeptVersion) -> LoadVersion:
        if kept.predictor == before:
            asyncio.run_coroutine_threadsafe(client.load(after, "abc", artefact), loop).result()
        return read(kept)

    monkeypatch.setattr(KeptVersion, "read", interrupted)
    restored: list[UUID] = []
    handle = client._handle_reply

    def noted(reply: PredictorReply) -> None:
        if isinstance(reply, VersionLoaded):
            restored.append(reply.predictor)
        handle(reply)

    monkeypatch.setattr(client, "_handle_reply", noted)
    client.start()
    async with asyncio.timeout(PATIENCE_S):
        await client.ready()
    await client.close()
    assert restored == [after]


async def test_crashed_process_exits_with_its_own_error(artefact: bytes) -> None:
    version = uuid4()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=child_environment() | ENVIRONMENT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    assert isinstance(await read_reply(process.stdout), Ready)
    process.stdin.write(encode_frame(LoadVersion(version, "abc", artefact)))
    assert await read_reply(process.stdout) == VersionLoaded(version, None)
    wrong = ScoreRequest(
        0, math.inf, uuid4(), b"hash", "Copy the text.", "one two", features=bytes(8)
    )
    process.stdin.write(encode_frame(wrong))
    errors = await process.stderr.read()  # stdin stays open until the process has ended
    assert await process.wait() == 1
    assert errors.decode().rstrip().splitlines()[-1] == (
        f"ValueError: 2 features, {len(NAMES)} expected"
    )


async def test_process_whose_log_is_not_read_predicts(artefact: bytes) -> None:
    version = uuid4()
    with unread_pipe() as stderr:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, stdin=PIPE, stdout=PIPE, stderr=stderr, env=child_environment() | ENVIRONMENT
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert isinstance(await read_reply(process.stdout), Ready)
            process.stdin.write(encode_frame(LoadVersion(version, "abc", artefact)))
            assert await read_reply(process.stdout) == VersionLoaded(version, None)
            process.stdin.close()
            assert await process.wait() == 0


HANGING_LOADER = """
import threading
from gateway.prediction.serving import process

process.VERSION_LIMIT_S = 0.1
process.Scorer.load = lambda scorer, command: threading.Event().wait()
process.main()
"""


async def test_load_of_a_version_that_hangs_ends_the_process_and_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process_client, "COMMAND", (sys.executable, "-c", HANGING_LOADER))
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.2)
    monkeypatch.setattr(heartbeat, "MAX_MISSED_BEATS", math.inf)  # of a busy machine
    monkeypatch.setattr(heartbeat, "MAX_START_BEATS", math.inf)
    client = PredictorClient(find_embedder("off"))
    client.start()
    async with asyncio.timeout(PATIENCE_S):
        await client.ready()
        with pytest.raises(Unavailable, match="process ended"):
            await client.load(uuid4(), "abc", b"")
    assert not client.connected
    await client.close()


async def test_process_that_stands_still_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.1)
    monkeypatch.setattr(heartbeat, "MAX_MISSED_BEATS", math.inf)
    client = PredictorClient(find_embedder("off"))
    client.start()
    async with asyncio.timeout(PATIENCE_S):
        await client.ready()
        assert client.pid is not None
        process = psutil.Process(client.pid)
        process.suspend()
        while client.connected:
            await asyncio.sleep(0.05)
        process.resume()
        while not client.connected:
            await asyncio.sleep(0.05)
    await client.close()
    assert client.restarts == 0


# Its end is noticed, and that it writes no more only once the file is there.
ENDS_WITH_OPEN_OUTPUT = """
import os, resource, sys, time
from gateway.prediction.serving.frames import Ready, encode_frame

sys.stdout.buffer.write(encode_frame(Ready()))
sys.stdout.flush()
if os.fork():
    os._exit(1)
os.close(0)
os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
until = time.monotonic() + 600
while not os.path.exists(sys.argv[1]) and time.monotonic() < until:
    time.sleep(0.02)
"""


async def test_request_to_a_process_that_has_just_ended_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On the gateway's event loop, whose pipes raise from then on."""
    noticed = tmp_path / "noticed"
    command = (sys.executable, "-c", ENDS_WITH_OPEN_OUTPUT, str(noticed))
    monkeypatch.setattr(process_client, "COMMAND", command)
    wanted = {"app": uuid4(), "instruction_hash": b"", "instruction": "", "user_input": ""}

    async def ask_until_refused(client: PredictorClient) -> None:
        await client.ready()
        while True:
            client.request_score(**wanted, features=b"")
            await asyncio.sleep(0.01)

    async def ask() -> None:
        client = PredictorClient(find_embedder("off"))
        client.start()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(Unavailable, match="has ended"):
                await ask_until_refused(client)
            noticed.touch()
            while client.pid is not None:
                await asyncio.sleep(0.01)
        await client.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(ask())

    await asyncio.to_thread(run)


def test_process_ends_with_a_killed_gateway() -> None:
    script = """
import asyncio
from gateway.prediction.serving.process_client import PredictorClient

async def main():
    client = PredictorClient()
    client.start()
    while client.pid is None:
        await asyncio.sleep(0.01)
    print(client.pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as gateway:
        assert gateway.stdout is not None
        lines = iter(gateway.stdout.readline, "")
        child = psutil.Process(int(next(line for line in lines if line.strip().isdigit())))
        gateway.kill()
    child.wait(timeout=PATIENCE_S)
