"""Code blocks are found in documents, with their commands and the outputs shown."""

from pathlib import Path

import pytest

from checks.blocks import Block, Command, blocks, commands, missing


def found(folder: Path, text: str) -> list[Block]:
    (folder / "page.md").write_text(text)
    return list(blocks(folder, "page.md"))


def test_shell_and_python_blocks_are_found_with_file_and_line(tmp_path: Path) -> None:
    text = "Text.\n```console\nls\n```\n```json\n{}\n```\n```python\nprint()\n```\n"
    assert [(b.place, b.language, b.text) for b in found(tmp_path, text)] == [
        ("page.md:2", "console", "ls"),
        ("page.md:8", "python", "print()"),
    ]


def test_comment_above_a_block_is_its_reason(tmp_path: Path) -> None:
    text = "<!-- not run: needs Docker -->\n```console\nls\n```\n```console\nls\n```\n"
    assert [block.not_run for block in found(tmp_path, text)] == ["needs Docker", None]


def test_block_within_a_longer_fence_is_an_example(tmp_path: Path) -> None:
    assert found(tmp_path, "````markdown\n```console\nls\n```\n````\n") == []


def test_lines_without_a_prompt_are_all_commands() -> None:
    assert commands("ls\npwd") == [Command("ls", ()), Command("pwd", ())]


@pytest.mark.parametrize("script", ["ls \\\n  -l", "echo 'a\nb'", 'echo "it\'s\nfine"'])
def test_command_spans_lines_until_it_is_complete(script: str) -> None:
    assert commands(f"$ {script}\nout\n$ pwd") == [
        Command(script, ("out",)),
        Command("pwd", ()),
    ]


@pytest.mark.parametrize(
    "shown",
    ["  4.1 s  ready on http://127.0.0.1:8000", "…s  ready on…", "0.3 s ready on http://1.2.3.4:5"],
)
def test_shown_output_may_differ_in_numbers_and_spaces(shown: str) -> None:
    assert missing((shown,), "first\n  12.25 s  ready on http://127.0.0.1:49152\n") == []


def test_missing_output_is_named() -> None:
    assert missing(("HTTP/1.1 200 OK", "there"), "HTTP/1.1 500 Error\nthere") == ["HTTP/1.1 200 OK"]
