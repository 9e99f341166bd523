"""The documentation matches the code."""

import re
from pathlib import Path

import msgspec
import pytest

from gateway.api.cors import EXPOSED
from gateway.api.usage.rate_limits import standing_headers
from gateway.cli.configuration import page
from gateway.cli.main import COMMANDS
from gateway.errors import DeadlineUnreachable, QueueTimeExceeded, RequestCancelled
from gateway.generation.holds.holds import SHOWN
from gateway.limits.limit import Standing
from gateway.settings import Settings
from tests.metric_families import metric_families

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"),
    *sorted(path.relative_to(ROOT).as_posix() for path in DOCS.glob("*.md")),
]
MAX_README = 120  # lines
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def code_of(text: str) -> str:
    """The shell blocks and the inline code."""
    shell = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return "\n".join([*shell, *re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)])


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub generates for a page's headings."""
    headings = [heading.lower() for heading in HEADING.findall(path.read_text())]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def test_configuration_page_is_up_to_date() -> None:
    assert (DOCS / "configuration.md").read_text() == page(), "run `make docs`"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README


@pytest.mark.parametrize("document", DOCUMENTS)
def test_document_names_only_commands_and_targets_that_exist(document: str) -> None:
    code = code_of((ROOT / document).read_text())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\blmaas ([a-z]+)\b", code)) <= set(COMMANDS)
    assert set(re.findall(r"\bmake ([a-z-]+)\b", code)) <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_document_names_only_settings_that_exist(document: str) -> None:
    known = {field.encode_name for field in msgspec.structs.fields(Settings)}
    named = set(re.findall(r"\bLMAAS_[A-Z_]+\b", (ROOT / document).read_text()))
    assert {name for name in named if not name.endswith("_")} <= known


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_of_the_document_have_a_target(document: str) -> None:
    here = ROOT / document
    for link in LINK.findall(here.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (here.parent / name).resolve() if name else here
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_index_links_every_page() -> None:
    index = (DOCS / "index.md").read_text()
    assert {path.name for path in DOCS.glob("*.md")} - {"index.md"} <= set(LINK.findall(index))


def headers_of(table: str) -> set[str]:
    """The headers in the first column of this table of docs/api.md."""
    rows = (DOCS / "api.md").read_text().partition(f"| {table} | meaning |\n|---|---|\n")[2]
    names = re.findall(r"^\| (`[^|]+`) \|", rows.partition("\n\n")[0], re.MULTILINE)
    return {name for cell in names for name in re.findall(r"`([^`]+)`", cell)}


def test_web_pages_may_read_the_documented_headers_and_no_others() -> None:
    documented = headers_of("header of an answer")
    assert {name for name in EXPOSED if not name.startswith("x-ratelimit-")} == {
        name for name in documented if name != "x-ratelimit-*"
    }
    standing = Standing(limit=1, remaining=1, reset_s=0.0)
    limits = set(standing_headers(dict.fromkeys(SHOWN, standing)))
    assert {name for name in EXPOSED if name.startswith("x-ratelimit-")} == limits


def test_every_header_of_our_own_is_documented() -> None:
    sources = (path.read_text() for path in (ROOT / "gateway" / "api").rglob("*.py"))
    named = {name for source in sources for name in re.findall(r'"(x-lmaas-[a-z0-9-]+)"', source)}
    assert named <= headers_of("header of a request") | headers_of("header of an answer")


def test_every_metric_is_documented() -> None:
    page = (DOCS / "operations.md").read_text()
    named = metric_families()
    assert len(named) > 20
    assert {name for name in named if name not in page} == set()


def test_every_error_that_ends_a_waiting_request_is_documented() -> None:
    page = (DOCS / "scheduling.md").read_text()
    for error in (DeadlineUnreachable, QueueTimeExceeded, RequestCancelled):
        assert f"`{error.code}`" in page
