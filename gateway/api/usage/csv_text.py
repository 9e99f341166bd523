"""CSV whose cells a spreadsheet takes for text and numbers, never for a formula."""

import csv
from collections.abc import Iterable
from datetime import datetime
from io import StringIO
from typing import Final

# With these a spreadsheet begins to compute: what a client named a user would run for the one that
# opens the file (OWASP, CSV injection). The last four are the full-width forms of the first.
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """The rows as lines of CSV; None is an empty cell, a time is in ISO 8601."""
    written = StringIO(newline="")
    csv.writer(written).writerows([_cell(value) for value in row] for row in rows)
    return written.getvalue()


def _cell(value: object) -> object:
    """A text that would begin a formula gets an apostrophe, which spreadsheets do not show."""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value.isoformat() if isinstance(value, datetime) else value
