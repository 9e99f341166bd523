"""P4's splits and measures."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from benchmarks.p4.run import mean_rows, targets
from benchmarks.p4.splits import (
    LONG_FROM,
    SHORT_BELOW,
    Split,
    draw_split,
    pair_accuracy,
    read_prompts,
    read_splits,
)
from gateway.errors import NotFound

TOKENS = np.array([50, 100, 300, 900, 1_000])


def test_pair_accuracy_counts_pairs_of_long_and_short_answers() -> None:
    assert pair_accuracy(TOKENS, TOKENS.astype(float)) == 1.0
    assert pair_accuracy(TOKENS, -TOKENS.astype(float)) == 0.0
    assert pair_accuracy(TOKENS, np.ones(5)) == 0.5
    scores = np.array([1.0, 4.0, 99.0, 3.0, 5.0])  # 3 of 4 pairs; the middle answer is in none
    assert pair_accuracy(TOKENS, scores) == 0.75


def test_a_drawn_split_has_each_row_once_and_every_class_in_proportion() -> None:
    tokens = np.random.default_rng(1).integers(10, 1_500, 400)
    split = draw_split(tokens, seed=4)
    assert sorted(split.train + split.test) == list(range(400))
    assert len(split.test) == 80
    for among in (tokens < SHORT_BELOW, tokens >= LONG_FROM):
        assert among[split.test].mean() == pytest.approx(among.mean(), abs=0.02)
    assert draw_split(tokens, seed=4) == split != draw_split(tokens, seed=5)


def test_prompts_and_splits_are_read(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="prompts"):
        read_prompts(tmp_path)
    with pytest.raises(NotFound, match="splits"):
        read_splits(tmp_path)
    with gzip.open(tmp_path / "prompts.csv.gz", "wt") as file:
        file.write('prompt,output_tokens\n"Two words, please",120\nAgain,0\n')
    (tmp_path / "splits.json").write_text(
        '[{"seed": 1, "train": [0], "test": [1], "published_long": [0.5], "published_score": [9]}]'
    )
    first, second = read_prompts(tmp_path)
    assert first.measured is not None
    assert second.measured is not None
    assert (first.measured.input_tokens, first.measured.answer_tokens) == (4, 120)
    assert second.measured.answer_tokens == 1
    assert read_splits(tmp_path) == [Split(1, [0], [1], [0.5])]


def test_means_are_of_the_published_splits_and_of_all() -> None:
    rows = [
        {"seed": seed, "published": published, "pair accuracy": accuracy, "τ": 0.3}
        | {"coverage": 0.9, "coverage online": 0.95}
        for seed, published, accuracy in ((1, 0.6, 0.8), (2, None, 0.6))
    ]
    shared, every = mean_rows(rows)
    assert (shared["pair accuracy"], every["pair accuracy"]) == (0.8, pytest.approx(0.7))
    assert (shared["published"], every["published"]) == (0.6, None)
    assert [each.name for each in targets(rows) if not each.met] == ["coverage online, at most"]
