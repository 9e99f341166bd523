"""Tables of a comparison."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import isnan
from typing import Final, NamedTuple, TypeVar

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway.replay.measure.confidence import ConfidenceInterval
from gateway.replay.measure.metrics import DECILES
from gateway.replay.measure.time_series import MAX_TENANTS
from gateway.replay.plan import JobRow, PolicyRow

AnyRow = TypeVar("AnyRow", PolicyRow, JobRow)

WIDTH: Final = 130  # of the widest table, in characters
MISSING: Final = "-"


class Column(NamedTuple):
    """A measure's heading, unit factor and decimals; with `spread`, also half its interval."""

    heading: str
    measure: str
    factor: float = 1.0
    decimals: int = 2
    spread: bool = False


RESPONSES: Final = (
    Column("response s\nmean", "mean_s", spread=True),
    Column("\np50", "p50_s"),
    Column("\np90", "p90_s"),
    Column("\np99", "p99_s", spread=True),
    Column("TTFT s\nmean", "ttft_mean_s"),
    Column("\np99", "ttft_p99_s"),
    Column("wait s\nmean", "wait_mean_s"),
    Column("longest delay\nbehind fcfs s", "extra_delay_s", decimals=1),
)
ENGINE: Final = (
    Column("\ntokens/s", "tokens_s", decimals=0),
    Column("KV use\n%", "kv_use", 100, 1),
    Column("preempted\n%", "preempted", 100),
    Column("recomputed\n% of tokens", "recomputed", 100),
    Column("batch\nsize", "batch_size", decimals=1),
    Column("decision\nµs", "decision_us", decimals=0),
)
DEADLINES: Final = (
    Column("in time\n%", "in_time", 100, 1, spread=True),
    Column("goodput\n/s", "goodput_s"),
    Column("gave up\n%", "gave_up", 100, 1),
)


def tables(rows: Sequence[PolicyRow]) -> RenderableType:
    """Every table of a comparison: policies by load, by decile of length, and by tenant."""
    return Group(*_tables(rows))


def load_name(load: float | None) -> str:
    """The name of a load in tables."""
    return "as it is" if load is None else f"{load:g}"


def responses_table(rows: Sequence[PolicyRow]) -> Table:
    """Response times, TTFT and waits."""
    return _measures_table("How long requests took", RESPONSES, rows)


def engine_table(rows: Sequence[PolicyRow]) -> Table:
    """The engine's throughput and memory use, and deadlines met if there are any."""
    due = any(not isnan(row.measures["in_time"].mean) for row in rows)
    columns = [*ENGINE, *(DEADLINES if due else ())]
    return _measures_table("What the engine did", columns, rows)


def deciles_table(rows: Sequence[PolicyRow]) -> Table:
    """Mean response by decile of true length."""
    column = Column("", "", decimals=2)
    return table_of(
        "Mean response in seconds by decile of true length",
        ["shortest", *map(str, range(2, DECILES)), "longest"],
        rows,
        lambda row: [cell_of(each, column) for each in row.deciles_s],
    )


def tenants_table(rows: Sequence[PolicyRow]) -> Table:
    """The mean response and fraction of tokens of each tenant; of many tenants, the largest."""
    shares = {name: share.mean for name, share in rows[0].served.items()}
    names = sorted(shares, key=lambda name: -shares[name])[:MAX_TENANTS]
    column = Column("", "")
    return table_of(
        "Mean response in seconds by tenant, and its share of the tokens",
        [f"{name}\n{shares[name]:.0%}" for name in names],
        rows,
        lambda row: [cell_of(row.tenants_s[name], column) for name in names],
    )


def _tables(rows: Sequence[PolicyRow]) -> Iterator[RenderableType]:
    yield responses_table(rows)
    yield engine_table(rows)
    yield deciles_table(rows)
    if len(rows[0].served) > 1:
        yield tenants_table(rows)


def _measures_table(title: str, columns: Sequence[Column], rows: Sequence[PolicyRow]) -> Table:
    return table_of(
        title,
        [column.heading for column in columns],
        rows,
        lambda row: [cell_of(row.measures[column.measure], column) for column in columns],
    )


def table_of(
    title: str,
    headings: Sequence[str],
    rows: Sequence[AnyRow],
    cells: Callable[[AnyRow], list[str]],
) -> Table:
    """Rows grouped by load, in sections."""
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    above = "\n" if any("\n" in heading for heading in headings) else ""
    table.add_column(f"{above}load", no_wrap=True)
    table.add_column(f"{above}policy", no_wrap=True)
    for heading in headings:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for load, group in groupby(rows, key=lambda row: row.load):
        for index, row in enumerate(group):
            table.add_row("" if index else load_name(load), row.policy, *cells(row))
        table.add_section()
    return table


def cell_of(found: ConfidenceInterval, column: Column) -> str:
    """A mean, with half its interval if the column has that."""
    if isnan(found.mean):
        return MISSING
    shown = f"{column.factor * found.mean:,.{column.decimals}f}"
    if not column.spread or isnan(found.low):
        return shown
    return f"{shown} ± {column.factor * found.half_width:,.{column.decimals}f}"
