"""Tables in documents that a run of checks writes, between two marks."""

from pathlib import Path
from typing import Final

END: Final = "<!-- to here -->"


def write_table(document: Path, start: str, table: str) -> None:
    """Replace what stands in a document between this mark and the next end. ValueError without."""
    before, rest = document.read_text(encoding="utf-8").split(start)
    _, after = rest.split(END, maxsplit=1)
    document.write_text(f"{before}{start}\n\n{table}\n\n{END}{after}", encoding="utf-8")
