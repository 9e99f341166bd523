"""The word check finds all refused words and nothing else."""

from pathlib import Path

import pytest

from checks.words import ALLOWED, PATHS, ROOT, WORDS, Allowed, check, find


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        (root / f"{name}.md").write_text(text)


def test_documents_use_none_of_the_words() -> None:
    assert check(ROOT, PATHS, ALLOWED) == []


@pytest.mark.parametrize("word", WORDS)
def test_every_word_is_found_in_any_case(word: str) -> None:
    (found,) = find(f"One line.\n{word.capitalize()}, said twice? No.")
    assert (found.word, found.number) == (word, 2)


@pytest.mark.parametrize("text", ["so\nmany", "# so\n# many", "so  many"])
def test_words_over_a_line_break_are_found(text: str) -> None:
    assert [found.word for found in find(text)] == ["so many"]


@pytest.mark.parametrize("text", ["_told(x)", "told_at_s", "self._told", "is told:"])
def test_words_in_names_are_found(text: str) -> None:
    assert [found.word for found in find(text)] == ["told"]


@pytest.mark.parametrize("text", ["besides", "intellect", "shallow", "retell", "hardliner"])
def test_words_that_only_contain_one_are_accepted(text: str) -> None:
    assert list(find(text)) == []


def test_problem_names_file_line_and_a_better_word(tmp_path: Path) -> None:
    write(tmp_path, page="Fine.\nIt is done anew.")
    assert check(tmp_path, ("page.md",), ()) == ["page.md:2: 'anew'; better: again"]


def test_folders_are_searched(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    write(tmp_path / "docs", page="anew")
    assert len(check(tmp_path, ("docs",), ())) == 1


def test_allowed_phrase_applies_to_its_file_alone(tmp_path: Path) -> None:
    write(tmp_path, one="a target, told 5", two="a target, told 5")
    allowed = (Allowed("one.md", "told 5", "a name"),)
    assert [p[:6] for p in check(tmp_path, ("one.md", "two.md"), allowed)] == ["two.md"]


def test_unused_permission_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path, page="Fine.")
    allowed = (Allowed("page.md", "told 5", "a name"),)
    assert check(tmp_path, ("page.md",), allowed) == ["page.md: 'told 5' is allowed, but not used"]
