"""Trials fit their engine and vary every part of a step."""

from collections import Counter
from typing import Any

import pytest

from gateway.replay.cost.model import EngineShape
from gateway.replay.cost.trials import MIX, ROUNDS, design_trials


def a_shape(**given: Any) -> EngineShape:
    fields = {"pages": 2048, "page_tokens": 16, "step_tokens": 512, "context_tokens": 2048}
    return EngineShape(**{**fields, **given})


@pytest.mark.parametrize(
    "shape",
    [
        a_shape(),
        a_shape(pages=150, context_tokens=2048),
        a_shape(pages=40, context_tokens=600, step_tokens=64),
        a_shape(max_sequences=4),
        a_shape(pages=100_000, context_tokens=32_768),
    ],
)
def test_every_trial_fits_the_engine(shape: EngineShape) -> None:
    trials = design_trials(shape)
    for trial in trials:
        lengths = [each.prompt_tokens + each.generation_tokens for each in trial.arrivals]
        assert max(lengths) <= shape.context_tokens
        assert sum(-(-length // shape.page_tokens) for length in lengths) <= shape.pages
        assert len(lengths) <= min(shape.max_sequences or 512, shape.step_tokens)
        assert min(min(a.prompt_tokens, a.generation_tokens) for a in trial.arrivals) >= 1
    names = Counter(trial.name for trial in trials)
    assert set(names.values()) == {ROUNDS}


def test_mix_comes_first_and_the_rest_from_small_to_large() -> None:
    trials = design_trials(a_shape())
    mix, *others = trials[: len(trials) // ROUNDS]
    assert mix.name == MIX
    sizes = [trial.tokens for trial in others]
    assert sizes == sorted(sizes)


def test_large_engine_is_tried_with_large_batches_and_long_prompts() -> None:
    trials = design_trials(a_shape())
    assert max(len(trial.arrivals) for trial in trials) == 64
    assert max(a.prompt_tokens for trial in trials for a in trial.arrivals) == 2047
