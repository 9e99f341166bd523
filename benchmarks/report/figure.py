"""What the report page knows of a figure."""

from typing import Final, Literal

from msgspec import Struct

from benchmarks.harness.report import Row

LIVE: Final = "live"


class Excerpt(Struct, frozen=True):
    """Some rows of a result: those with these values and all these fields, shown by heading."""

    title: str
    where: Row
    columns: dict[str, str]


class Figure(Struct, frozen=True):
    """A figure of the page.

    `result` names the result file and the folder of pictures. A figure with a `part` shows what
    names that part, in `result` or in a result of its own, `result`-`part`; one without a part
    shows the rest.
    """

    title: str
    result: str
    kind: Literal["live", "engine", "simulated", "offline"]
    command: str
    about: str
    part: str | None = None
    excerpts: tuple[Excerpt, ...] = ()
    details: str | None = None  # heading in benchmarks/README.md


KINDS: Final = {
    "live": "measured on the running product",
    "engine": "measured on the running engine, without the gateway",
    "simulated": "replayed: the product's scheduling code drives a simulated engine",
    "offline": "measured on recorded texts and lengths, without a server",
}
