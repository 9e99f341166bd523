"""What is asked of each kind of server, and how its events are read."""

from typing import Any

import msgspec
import pytest

from engine.protocol import Grammar, Sampling, Sequence
from gateway.engines.upstream.capabilities import Capabilities, ServerKind
from gateway.engines.upstream.dialects import Work, dialect_of
from gateway.engines.upstream.exposition import ServerLoad, read_load, read_pages
from gateway.engines.upstream.failures import RequestRefused, StreamBroken
from gateway.engines.upstream.hints import hint_fields, hint_headers
from tests.integration.engines.upstream.conftest import MODEL
from tests.openai_server import METRICS


def a_work(held: tuple[int, ...] = (), at_once: int = 1, **fields: Any) -> Work:
    sampling = fields.pop("sampling", Sampling(temperature=0.7, seed=40))
    sequence = Sequence(
        "a", [5, 6], max_tokens=10, reserve=4, stop_ids=[2], sampling=sampling, **fields
    )
    return Work(sequence, list(held), from_start="grammar" in fields, at_once=at_once)


def a_seeded_work(own: int, held: int) -> Work:
    return a_work((7,) * held, sampling=Sampling(temperature=1.0, seed=own), seeded=True)


def capabilities(kind: ServerKind, **fields: Any) -> Capabilities:
    given = {"token_prompts": True, "token_answers": True, **fields}
    return Capabilities(kind=kind, version="1", model="there", **given)


def body(kind: ServerKind, work: Work, **fields: Any) -> dict[str, Any]:
    return dialect_of(capabilities(kind, **fields), MODEL).body(work)


def test_sequence_goes_on_from_its_tokens() -> None:
    asked = body("vllm", a_work((7, 8), sampling=Sampling(min_tokens=5, seed=40)))
    assert asked["prompt"] == [5, 6, 7, 8]
    assert (asked["max_tokens"], asked["min_tokens"]) == (8, 3)


@pytest.mark.parametrize("kind", ["vllm", "llama.cpp", "openai"])
def test_every_place_of_every_choice_has_a_seed_of_its_own(kind: ServerKind) -> None:
    def seed(own: int, held: int) -> int:
        return int(body(kind, a_seeded_work(own, held))["seed"])

    seeds = [[seed(own, held) for held in range(9)] for own in range(40, 48)]
    assert [each[0] for each in seeds] == list(range(40, 48)), "the client's, at the start"
    assert len({each for choice in seeds for each in choice}) == 8 * 9
    assert seeds[3][5] == seed(43, 5), "it depends on seed and place alone"
    assert all(0 <= each < 2**63 for choice in seeds for each in choice)


@pytest.mark.parametrize("kind", ["vllm", "llama.cpp", "openai"])
def test_server_chooses_the_seed_where_the_client_did_not(kind: ServerKind) -> None:
    assert "seed" not in body(kind, a_work())
    assert "seed" not in body(kind, a_work((7, 8)))


def test_grammar_is_generated_again_with_its_own_seed() -> None:
    asked = body("vllm", a_work((7, 8), grammar=Grammar("regex", "a+")))
    assert asked["seed"] == 40


def test_vllm_is_given_every_stop_id_and_no_default_of_its_own() -> None:
    asked = body("vllm", a_work(salt="tenant"), salts=True)
    assert (asked["ignore_eos"], asked["stop_token_ids"]) == (True, [2])
    assert (asked["temperature"], asked["cache_salt"]) == (0.7, "tenant")
    assert not {"top_k", "logit_bias", "logprobs", "priority"} & asked.keys()


@pytest.mark.parametrize(
    ("knows", "at_once", "asked"), [(True, 16, 16), (True, 1, None), (False, 16, None)]
)
def test_vllm_sends_several_tokens_together_where_it_can(
    knows: bool, at_once: int, asked: int | None
) -> None:
    sent = body("vllm", a_work(at_once=at_once), intervals=knows)
    assert sent.get("stream_interval") == asked


def test_vllm_is_given_sampling_parameters_by_its_names() -> None:
    sampling = Sampling(
        top_k=3, allowed=[7], logprobs=2, bad_words=[[9], [8, 9]], logit_bias={4: 1.5}
    )
    asked = body("vllm", a_work(sampling=sampling))
    assert (asked["top_k"], asked["allowed_token_ids"], asked["logprobs"]) == (3, [7], 2)
    assert asked["logit_bias"] == {"4": 1.5, "9": -100.0}
    assert asked["bad_words"] == ["8 9 "]


@pytest.mark.parametrize(
    ("kind", "field"), [("json_schema", "json"), ("regex", "regex"), ("lark", "grammar")]
)
def test_grammar_is_generated_from_its_start(kind: Any, field: str) -> None:
    asked = body("vllm", a_work((7, 8), grammar=Grammar(kind, "source")))
    assert asked["structured_outputs"] == {field: "source"}
    assert (asked["prompt"], asked["max_tokens"]) == ([5, 6], 10)


def test_llama_cpp_samples_in_the_order_of_our_engine() -> None:
    asked = body("llama.cpp", a_seeded_work(2**40 + 1, 0))
    assert asked["samplers"][1:] == ("temperature", "top_k", "top_p", "min_p")
    assert (asked["min_p"], asked["repeat_penalty"], asked["seed"]) == (0.0, 1.0, 1)
    assert not asked["ignore_eos"]


def test_server_without_token_ids_is_given_text() -> None:
    asked = body("openai", a_work(), token_prompts=False, token_answers=False)
    assert asked["prompt"] == "5 6 "
    assert "return_token_ids" not in asked
    assert "stop_token_ids" not in asked


def test_log_probabilities_are_read_by_id() -> None:
    dialect = dialect_of(capabilities("vllm"), MODEL)
    event = {
        "choices": [
            {
                "token_ids": [7],
                "logprobs": {
                    "tokens": ["token_id:7"],
                    "token_logprobs": [-3.0],
                    "top_logprobs": [{"token_id:7": -3.0, "token_id:4": -0.5, "token_id:5": -1.0}],
                },
            }
        ]
    }
    chunk = dialect.read(msgspec.json.encode(event), a_work(sampling=Sampling(logprobs=2)))
    assert chunk is not None
    assert [each.top for each in chunk.logprobs] == [[(4, -0.5), (5, -1.0)]]


def test_llama_cpp_tokens_within_a_character_follow_from_the_text() -> None:
    dialect = dialect_of(capabilities("llama.cpp"), MODEL)
    whole = dialect.read(b'{"content": "7 ", "tokens": [7]}', a_work())
    part = dialect.read(b'{"content": "7 8 ", "tokens": [8]}', a_work())
    assert whole is not None
    assert part is not None
    assert (whole.tokens, part.tokens) == ([7], None)


@pytest.mark.parametrize("code", [400, 500, None])
def test_error_in_a_stream_is_the_requests_or_the_servers(code: int | None) -> None:
    event = msgspec.json.encode({"error": {"message": "no", "code": code}})
    fault = RequestRefused if code == 400 else StreamBroken
    with pytest.raises(fault, match="no"):
        dialect_of(capabilities("vllm"), MODEL).read(event, a_work())


def test_refusals_name_what_a_server_cannot_do() -> None:
    vllm = capabilities("vllm", grammars=("json_schema", "regex", "lark")).refusals
    assert set(vllm) == {"pause", "pins", "lockstep"}
    llama = capabilities("llama.cpp", grammars=("json_schema",)).refusals
    assert {"presence_penalty", "min_tokens", "bad_words", "regex", "lark"} <= llama.keys()
    assert {"logprobs", "top_k", "stop_token_ids"} <= capabilities("openai").refusals.keys()


def test_metrics_give_load_and_memory() -> None:
    text = (METRICS % 7).encode()
    assert read_load(text) == ServerLoad(running=1, waiting=0, kv_usage=0.25, preemptions=7)
    assert read_pages(text) == (64, 16)
    assert read_load(b"other 1\n") is None


@pytest.mark.parametrize("value", [b"+Inf", b"-Inf", b"NaN", b"-1", b"+", b"e", b""])
def test_load_that_is_no_number_is_left_out(value: bytes) -> None:
    text = b'vllm:kv_cache_usage_perc{engine="0"} ' + value + b"\nvllm:num_requests_running 2.0\n"
    assert read_load(text) == ServerLoad(running=2)
    assert read_pages(b'vllm:cache_config_info{num_gpu_blocks="None",block_size="16"} 1') is None


def test_hints_are_sent_where_they_are_wanted() -> None:
    sequence = a_work(expected=120, salt="tenant").sequence
    assert not hint_fields(sequence, frozenset(), priority=True, preempt_first=0)
    plain = hint_fields(sequence, frozenset(), priority=True, preempt_first=2)
    assert plain == {"priority": 2}
    wanted = frozenset({"priority", "nvext", "llm-d"})
    fields = hint_fields(sequence, wanted, priority=True, preempt_first=1)
    assert fields == {"priority": 2**32 + 120, "nvext": {"agent_hints": {"osl": 120}}}
    assert "priority" not in hint_fields(sequence, wanted, priority=False, preempt_first=1)
    assert set(hint_headers(sequence, wanted).values()) == {"tenant"}
    assert not hint_headers(sequence, frozenset())
