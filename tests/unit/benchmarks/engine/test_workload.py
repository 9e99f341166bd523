"""The requests of the figures."""

from statistics import median

from benchmarks.engine.workload import (
    GENERATION,
    PROMPT,
    RESERVED_IDS,
    VOCABULARY,
    even_requests,
    mixed_requests,
    prefixed_requests,
)


def test_mix_has_the_stated_totals() -> None:
    requests = mixed_requests()
    assert len(requests) == 128
    assert sum(len(request.prompt) for request in requests) == 18_751
    assert sum(request.tokens for request in requests) == 10_524
    assert median(request.tokens for request in requests) == 62


def test_mix_stays_within_its_bounds_and_reaches_them() -> None:
    requests = mixed_requests()
    assert all(PROMPT[0] <= len(request.prompt) <= PROMPT[1] for request in requests)
    assert all(GENERATION[0] <= request.tokens <= GENERATION[1] for request in requests)
    assert max(request.tokens for request in requests) == GENERATION[1]


def test_mix_is_the_same_every_time() -> None:
    assert mixed_requests() == mixed_requests()
    assert mixed_requests()[0].prompt[:4] == [1054, 1222, 3779, 4510]


def test_fewer_requests_are_the_first_of_the_mix() -> None:
    assert mixed_requests(8) == mixed_requests()[:8]


def test_no_prompt_begins_like_another() -> None:
    heads = {tuple(request.prompt[:16]) for request in mixed_requests()}
    assert len(heads) == 128


def test_prompts_hold_ordinary_tokens_only() -> None:
    tokens = {token for request in mixed_requests() for token in request.prompt}
    assert min(tokens) >= RESERVED_IDS
    assert max(tokens) < VOCABULARY


def test_prefixed_requests_share_their_prefix_and_nothing_else() -> None:
    requests = prefixed_requests(5, shared=64, own=8, generated=4)
    assert len({tuple(request.prompt[:64]) for request in requests}) == 1
    assert len({tuple(request.prompt[64:]) for request in requests}) == 5
    assert {len(request.prompt) for request in requests} == {72}


def test_another_seed_brings_another_prefix() -> None:
    one, other = (
        prefixed_requests(1, shared=64, own=8, generated=4, seed=seed)[0] for seed in (0, 1)
    )
    assert one.prompt[:16] != other.prompt[:16]


def test_even_requests_have_equal_lengths_and_different_tokens() -> None:
    requests = even_requests(6, prompt=10, generated=3)
    assert {(len(request.prompt), request.tokens) for request in requests} == {(10, 3)}
    assert len({tuple(request.prompt) for request in requests}) == 6
