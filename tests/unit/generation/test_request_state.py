"""A request's sequence for the engine, and reading its answer."""

import asyncio
from itertools import islice

import pytest
from msgspec.structs import replace

from engine.protocol import Finish, Sampling, TokenLogprobs
from gateway.errors import GenerationFailed
from gateway.generation.answer import stream_pieces
from gateway.generation.request import Stops
from gateway.generation.request_state import RequestState
from gateway.generation.text.growing_answer import SCORED_PART, TEXT_PART, Piece
from tests.unit.generation.conftest import SchedulerScene

SCORED = Sampling(logprobs=1)


def token_logprobs(tokens: list[int]) -> list[TokenLogprobs]:
    return [TokenLogprobs(-token / 10, [(token, -token / 10)]) for token in tokens]


def joined_tokens(piece: Piece) -> str:
    return b"".join(scored.sampled.token.bytes or b"" for scored in piece.scored).decode()


def test_tenants_share_no_prefix(scene: SchedulerScene) -> None:
    salts = [scene.request(tenant=tenant).to_sequence([], 5).salt for tenant in (1, 1, 2)]
    assert salts[0] == salts[1] != salts[2]
    assert all(salts)


def test_sampling_parameters_reach_the_engine(scene: SchedulerScene) -> None:
    asked = Sampling(temperature=0.5, top_k=3, min_p=0.1, logit_bias={5: -100.0}, logprobs=2)
    sent = scene.request(sampling=asked, seed=11).to_sequence([], 5).sampling
    assert sent == Sampling(
        temperature=0.5, top_k=3, min_p=0.1, logit_bias={5: -100.0}, logprobs=2, seed=11
    )


def test_engine_knows_whether_the_client_chose_the_seed(scene: SchedulerScene) -> None:
    asked = [scene.request(seed=seed).to_sequence([], 5).seeded for seed in (None, 0, 11)]
    assert asked == [False, True, True]


def test_answer_is_whole_if_neither_client_nor_stop_string_reads_each_token(
    scene: SchedulerScene,
) -> None:
    asked = [
        scene.request(),
        scene.request(streamed=True),
        scene.request(stops=Stops(strings=("end",))),
        scene.request(stops=Stops(token_ids=(7,))),
    ]
    assert [state.to_sequence([], 5).whole for state in asked] == [True, False, False, True]


def test_each_choice_has_a_seed_of_its_own(scene: SchedulerScene) -> None:
    choices = [scene.request(choice=choice, seed=2**63 - 1) for choice in range(3)]
    seeds = [state.to_sequence([], 5).sampling.seed for state in choices]
    assert seeds == [2**63 - 1, 2**63, 2**63 + 1]
    unseeded = [scene.request(), scene.request()]
    sampled = [state.to_sequence([], 5).sampling.seed for state in unseeded]
    assert sampled[0] != sampled[1]
    assert sampled == [state.to_sequence([], 5).sampling.seed for state in unseeded]


def test_scored_tokens_concatenate_to_the_text(scene: SchedulerScene) -> None:
    state, text = scene.request(sampling=SCORED, logprobs=1), "brave 日本 queen\n"
    shown: list[Piece] = []
    for token in scene.encode(text):
        state.grow([token], 0.0, token_logprobs([token]))
        shown.append(state.read(ended=False))
    shown.append(state.read(ended=True))
    assert "".join(piece.text for piece in shown) == "".join(map(joined_tokens, shown)) == text
    assert all(joined_tokens(piece) == piece.text for piece in shown)


def test_scored_token_starts_at_its_text_offset(scene: SchedulerScene) -> None:
    state = scene.request(sampling=SCORED, logprobs=1)
    tokens = scene.encode("brave queen finds")
    state.grow(tokens, 0.0, token_logprobs(tokens))
    piece = state.read(ended=True)
    assert [scored.start for scored in piece.scored] == [0, 5, 11]
    assert [scored.sampled.token.text for scored in piece.scored] == ["brave", " queen", " finds"]
    assert [scored.sampled.logprob for scored in piece.scored] == [-token / 10 for token in tokens]


@pytest.mark.parametrize(
    ("min_tokens", "ignore_eos", "generated", "forced"),
    [
        (0, False, 3, False),
        (0, True, 3, True),
        (3, False, 3, True),  # it ended as soon as it could
        (3, False, 4, False),
        (3, False, 1, True),  # it was cut off before it could
    ],
)
async def test_length_that_parameters_forced_is_recorded_so_and_without_features(
    scene: SchedulerScene, *, min_tokens: int, ignore_eos: bool, generated: int, forced: bool
) -> None:
    scene.connect()
    state = scene.request(
        sampling=Sampling(min_tokens=min_tokens), stops=Stops(ignore_eos=ignore_eos)
    )
    state.prediction = replace(state.prediction, features=b"1234", instruction_hash=b"5")
    await scene.enqueue(state)
    (name,) = scene.names
    scene.step({name: [7] * generated}, [Finish(name, "stop")])
    (record,) = scene.outcomes.records
    assert (record.generation_tokens, record.forced) == (generated, forced)
    assert (record.features, record.instruction_hash) == ((b"", b"") if forced else (b"1234", b"5"))
    assert record.feature_version == (0 if forced else 1)


@pytest.mark.parametrize("stop", [" golden", "golden", "n gold"])
def test_stop_string_and_later_tokens_have_no_logprobs(scene: SchedulerScene, stop: str) -> None:
    state = scene.request(sampling=SCORED, logprobs=1, stops=Stops(strings=(stop,)))
    tokens = scene.encode("brave queen golden castle")
    assert state.grow(tokens, 0.0, token_logprobs(tokens))
    piece = state.read(ended=True)
    assert joined_tokens(piece) == ("brave" if stop == "n gold" else "brave queen")
    assert piece.text.startswith(joined_tokens(piece))
    assert len(state.answer.logprobs) == 3


def test_logprobs_are_held_back_with_a_partial_stop_string(scene: SchedulerScene) -> None:
    state = scene.request(sampling=SCORED, logprobs=1, stops=Stops(strings=(" golden castle",)))
    for word, shown in (("brave golden", "brave"), ("brave golden bridge", " golden bridge")):
        tokens = scene.encode(word)[len(state.tokens) :]
        state.grow(tokens, 0.0, token_logprobs(tokens))
        piece = state.read(ended=False)
        assert (piece.text, joined_tokens(piece)) == (shown, shown)


async def test_logprobs_before_an_engine_loss_are_kept(scene: SchedulerScene) -> None:
    scene.connect()
    state = scene.request(sampling=SCORED, logprobs=1)
    await scene.enqueue(state)
    first, second = scene.encode("brave queen")
    scene.step({state.sequence_id: [first]}, logprobs={state.sequence_id: token_logprobs([first])})
    scene.scheduler.events[0].engine_lost()
    scene.connect()
    scene.step(
        {state.sequence_id: [second]}, logprobs={state.sequence_id: token_logprobs([second])}
    )
    assert joined_tokens(state.read(ended=True)) == "brave queen"


def test_infinite_logprob_becomes_a_number_that_json_can_hold(scene: SchedulerScene) -> None:
    state = scene.request(sampling=SCORED, logprobs=1)
    state.grow([9], 0.0, [TokenLogprobs(float("-inf"))])
    assert state.read(ended=True).scored[0].sampled.logprob == -9999.0


async def test_choices_are_streamed_as_they_grow_and_each_ends_once(scene: SchedulerScene) -> None:
    grew = asyncio.Event()
    states = [scene.request(choice=choice, grew=grew) for choice in range(3)]

    async def run() -> None:
        for word in ("brave", " queen"):
            for state in states[:2]:
                state.grow(scene.encode(word.strip()), 0.0)
            await asyncio.sleep(0.03)
        for state in reversed(states):
            state.end("stop", 1.0)
            await asyncio.sleep(0)
            state.release()
            await asyncio.sleep(0)

    texts: dict[int, list[str | None]] = {0: [], 1: [], 2: []}
    running = asyncio.create_task(run())
    async for state, piece in stream_pieces(states):
        texts[state.choice].append(piece.text if piece else None)
    await running
    assert texts == {0: ["brave", " queen", None], 1: ["brave", " queen", None], 2: [None]}


async def test_last_tokens_are_sent_with_the_end_once_that_is_recorded(
    scene: SchedulerScene,
) -> None:
    state = scene.request()
    pieces = stream_pieces([state])
    state.grow(scene.encode("brave"), 0.0)
    state.end("stop", 1.0)
    reading = asyncio.ensure_future(anext(pieces))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not reading.done()
    state.release()
    _, piece = await reading
    assert piece is not None
    assert piece.text == "brave"
    assert await anext(pieces) == (state, None)


async def test_failed_choice_ends_the_stream(scene: SchedulerScene) -> None:
    states = [scene.request(), scene.request()]
    for state in states:
        state.grow(scene.encode("brave"), 0.0)
    states[1].end("error", 1.0, GenerationFailed("broken"))
    states[1].release()
    texts = list[str]()

    async def read(reading: list[RequestState]) -> None:
        async for _, piece in stream_pieces(reading):
            texts.append(piece.text if piece else "")

    with pytest.raises(GenerationFailed):
        await read([states[1], states[0]])
    assert texts == ["brave"]


@pytest.mark.parametrize("sampling", [SCORED, Sampling()], ids=["with logprobs", "without"])
@pytest.mark.parametrize("steps", [[1], [300], [5, 700, 0, 45]], ids=str)
def test_backlog_is_read_in_parts_of_limited_size(
    scene: SchedulerScene, sampling: Sampling, steps: list[int]
) -> None:
    answer = iter(scene.encode("brave queen finds 日 golden castle") * 200)
    one, other = (scene.request(sampling=sampling, logprobs=sampling.logprobs) for _ in range(2))
    parts: list[Piece] = []
    for length in steps:
        tokens = list(islice(answer, length))
        for state in (one, other):
            state.grow(tokens, 0.0, token_logprobs(tokens))
        parts += one.read_parts(ended=False)
    parts += one.read_parts(ended=True)
    whole = other.read(ended=True)
    assert "".join(part.text for part in parts) == whole.text
    assert [token for part in parts for token in part.scored] == whole.scored
    assert len(whole.scored) == (sum(steps) if sampling.logprobs else 0)
    character = len(scene.encode("日"))
    assert max(len(part.scored) for part in parts) < SCORED_PART + character
    if sampling.logprobs:
        assert all(joined_tokens(part) == part.text for part in parts)
    else:
        assert max(len(scene.encode(part.text)) for part in parts) <= 2 * TEXT_PART
