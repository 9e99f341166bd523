"""Text at the start of lines that keeps them from sharing, against the grouping without it."""

import numpy as np
import pytest

from gateway.jobs.planning.movable_text import MovableText, find_movable_text
from gateway.jobs.prefix_groups import group_in_levels
from gateway.jobs.prompts import JobPrompts

PAGE = 16
LINES = 40
random = np.random.default_rng(5)


def text(tokens: int) -> list[int]:
    drawn: list[int] = random.integers(0, 50_000, tokens).tolist()
    return drawn


def found(prompts: list[list[int]]) -> MovableText | None:
    return find_movable_text(JobPrompts.of(prompts), PAGE)


def saved(prompts: list[list[int]]) -> int:
    return group_in_levels(JobPrompts.of(prompts), PAGE).saved_tokens


def test_id_at_the_start_of_every_line_is_found() -> None:
    template, document = [1, 2, 3], text(200)
    prompts = [[*template, *text(6), *document, *text(20)] for _ in range(LINES)]
    movable = found(prompts)
    assert movable is not None
    assert (movable.lines, movable.differs_at, movable.agrees_at) == (LINES, 3, 9)
    assert movable.saves_tokens == saved(prompts) == 0
    assert movable.would_save_tokens == saved([prompt[9:] for prompt in prompts])
    assert movable.would_save_tokens == (LINES - 1) * 208 - (LINES - 1) * 16


def test_date_that_some_lines_have_in_common_is_found() -> None:
    dates, document = [text(5) for _ in range(4)], text(160)
    prompts = [[*dates[n % 4], *document, *text(20)] for n in range(LINES)]
    movable = found(prompts)
    assert movable is not None
    assert (movable.differs_at, movable.agrees_at) == (0, 5)
    assert movable.saves_tokens == (LINES - 4) * 160
    assert movable.would_save_tokens == (LINES - 1) * 160


def test_ids_of_several_lengths_before_several_documents_are_found() -> None:
    system, documents = text(40), [text(100) for _ in range(5)]
    prompts = [[*text(4 + n % 3), *system, *documents[n % 5], *text(20)] for n in range(LINES)]
    movable = found(prompts)
    assert movable is not None
    assert movable.lines == LINES
    assert movable.would_save_tokens == saved(
        [prompt[4 + n % 3 :] for n, prompt in enumerate(prompts)]
    )


@pytest.mark.parametrize("head", [0, 4])
def test_lines_that_share_from_the_start_or_nowhere_have_no_warning(head: int) -> None:
    document, template = text(100), text(head)
    assert found([[*document, *text(30)] for _ in range(LINES)]) is None
    assert found([[*template, *text(130)] for _ in range(LINES)]) is None


def test_common_phrase_inside_documents_is_no_reason_to_move_their_start() -> None:
    phrase, documents = text(24), [[*text(20)] for _ in range(5)]
    rest = [text(300) for _ in range(5)]
    prompts = [[*documents[n % 5], *phrase, *rest[n % 5], *text(9)] for n in range(LINES)]
    assert found(prompts) is None


@pytest.mark.parametrize("prompts", [[], [[]], [[1]], [[1] * 15, [1] * 15], [[], [1] * 200]])
def test_few_or_short_prompts_have_no_warning(prompts: list[list[int]]) -> None:
    assert found(prompts) is None
