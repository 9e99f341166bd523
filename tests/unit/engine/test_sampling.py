"""Drawing tokens."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import Sampling
from engine.sampling import Draw, sample, uniforms

GREEDY = Sampling()
seeds = st.integers(-(2**70), 2**70)
positions = st.integers(1, 2**20)


def some_logits(rows: int, vocabulary: int = 50, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


@given(
    st.lists(st.tuples(seeds, positions), min_size=1, max_size=8),
    st.floats(0.0, 5.0),
    st.floats(0.01, 1.0),
)
def test_a_row_draws_the_same_alone_and_in_any_batch(
    keys: list[tuple[int, int]], temperature: float, top_p: float
) -> None:
    logits = some_logits(len(keys))
    draws = [Draw(Sampling(temperature, top_p, seed), position) for seed, position in keys]
    alone = [sample(logits[row : row + 1], [draw])[0] for row, draw in enumerate(draws)]
    assert sample(logits, draws) == alone
    assert sample(logits.flip(0), draws[::-1]) == alone[::-1]


def test_greedy_takes_the_likeliest_beside_sampled_rows() -> None:
    logits = some_logits(4)
    draws = [Draw(GREEDY, 3), Draw(Sampling(temperature=50.0), 3)] * 2
    tokens = sample(logits, draws)
    assert tokens[::2] == logits.argmax(-1)[::2].tolist()


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 1e-5, 1e-3])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    logits = some_logits(5)
    draws = [Draw(Sampling(temperature, seed=row), 9) for row in range(5)]
    assert sample(logits, draws) == logits.argmax(-1).tolist()


@given(seeds, positions)
def test_top_p_draws_from_the_smallest_set_that_reaches_it(seed: int, position: int) -> None:
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    assert sample(logits, [Draw(Sampling(1.0, 0.74, seed), position)])[0] in {1, 3}
    assert sample(logits, [Draw(Sampling(1.0, 0.49, seed), position)]) == [1]


def test_tokens_come_as_often_as_they_are_likely() -> None:
    chances, count = [0.1, 0.5, 0.15, 0.25], 4000
    logits = torch.tensor([chances]).log().expand(count, -1)
    drawn = Counter(sample(logits, [Draw(Sampling(1.0, seed=7), n) for n in range(count)]))
    assert [drawn[token] / count for token in range(4)] == pytest.approx(chances, abs=0.03)


def test_temperature_flattens_what_is_drawn() -> None:
    logits = torch.tensor([[0.0, 2.0]]).expand(2000, -1)
    drawn = sample(logits, [Draw(Sampling(2.0, seed=n), 1) for n in range(2000)])
    assert drawn.count(1) / 2000 == pytest.approx(0.731, abs=0.03)


@given(st.lists(st.tuples(seeds, positions), min_size=1, max_size=20))
def test_uniforms_lie_in_the_half_open_unit_interval(keys: list[tuple[int, int]]) -> None:
    drawn = uniforms([Draw(Sampling(seed=seed), position) for seed, position in keys])
    assert all(0 <= chance < 1 for chance in drawn)


def test_neighbouring_seeds_and_positions_draw_unrelated_numbers() -> None:
    drawn = uniforms([Draw(Sampling(seed=s), p) for s in range(60) for p in range(60)])
    assert len(set(drawn.tolist())) == 3600
    table = torch.from_numpy(drawn).reshape(60, 60)
    assert table.mean().item() == pytest.approx(0.5, abs=0.02)
    neighbours = torch.stack([table[:, :-1].flatten(), table[:, 1:].flatten()])
    assert abs(torch.corrcoef(neighbours)[0, 1].item()) < 0.05


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_row_that_is_no_number_draws_nothing(poison: float) -> None:
    logits = some_logits(3)
    logits[1, 4] = poison
    tokens = sample(logits, [Draw(Sampling(1.0), 1), Draw(GREEDY, 1), Draw(GREEDY, 1)])
    assert [token is None for token in tokens] == [False, True, False]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_token_the_model_rules_out_is_not_drawn(temperature: float) -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    assert sample(logits, [Draw(Sampling(temperature), 1)]) == [1]
