"""Writes a comparison as a folder for the browser: report.html and its plots."""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Final

from rich.table import Table

from gateway.errors import InvalidRequest
from gateway.replay.plan import PolicyComparison
from gateway.replay.report.job import job_tables
from gateway.replay.report.plots import draw
from gateway.replay.report.table import deciles_table, engine_table, responses_table, tenants_table

CAPTIONS: Final = {
    "response": "Response by policy: mean and p99. "
    "Bars and whiskers: the mean over the seeds with its 95 % interval.",
    "deciles": "Mean response by decile of true length.",
    "queue": "Requests waiting over time, first seed.",
    "memory": "KV pages in use over time, as a share of all, first seed.",
    "tenants": "Tokens a second by tenant over time at the highest load, first seed; an answer's "
    "tokens are counted when it ends.",
}
STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22262b; max-width: 1120px;
       margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.1em; margin-top: 2.2em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { text-align: right; padding: .25em .7em; border-bottom: 1px solid #e6e8eb }
th { vertical-align: bottom; white-space: pre-line; color: #5f6570; font-weight: 600 }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
tr.section td { border-top: 2px solid #b4b8bf }
div.wide { overflow-x: auto } img { max-width: 100% } p.note { color: #5f6570; margin: .2em 0 }
"""


def write_report(found: PolicyComparison, facts: list[str], folder: Path) -> Path:
    """Write the report into a folder, which is created if needed; returns the page's path.

    `facts` are lines that describe what was replayed. InvalidRequest if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = draw(found, folder)
        page = folder / "report.html"
        page.write_text("\n".join(_page(found, facts, pictures)), encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{folder}: {error.strerror}") from error
    return page


def _page(found: PolicyComparison, facts: list[str], pictures: dict[str, Path]) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Replay</title><style>{STYLE}</style></head><body><h1>Replay</h1>"
    yield from (f'<p class="note">{escape(fact)}</p>' for fact in facts)
    yield from _html_table(responses_table(found.rows))
    yield from _picture("response", pictures)
    yield from _picture("deciles", pictures)
    yield from _html_table(deciles_table(found.rows))
    yield from _html_table(engine_table(found.rows))
    yield from _picture("queue", pictures)
    yield from _picture("memory", pictures)
    for table in job_tables(found.job_rows):
        yield from _html_table(table)
    if "tenants" in pictures:
        yield from _picture("tenants", pictures)
        yield from _html_table(tenants_table(found.rows))
    yield "</body></html>"


def _picture(name: str, pictures: dict[str, Path]) -> Iterator[str]:
    caption = CAPTIONS[name]
    yield f"<h2>{escape(caption)}</h2>"
    yield f'<img src="{pictures[name].name}" alt="{escape(caption)}">'


def _html_table(table: Table) -> Iterator[str]:
    """A table of the terminal as HTML."""
    yield f'<h2>{escape(str(table.title))}</h2><div class="wide"><table><tr>'
    yield from (f"<th>{escape(str(column.header).strip())}</th>" for column in table.columns)
    yield "</tr>"
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        first = ' class="section"' if cells[0] else ""
        yield f"<tr{first}>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>"
    yield "</table></div>"
