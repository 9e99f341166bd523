"""Where `lmaas replay` takes its requests and its engine from."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from msgspec import Struct

from gateway.replay.cost.model import EngineModel, read_engine
from gateway.replay.cost.profiles import DEFAULT, profile
from gateway.replay.workload.synthetic import typical_lengths
from gateway.replay.workload.trace import read_trace
from gateway.replay.workload.workload import Workload

DRAWN: Final = 10_000


class Asked(Struct, frozen=True, kw_only=True):
    """The options that say which requests; None and False where not given."""

    trace: Path | None
    history: bool
    generate: str | None
    lengths: Path | None
    since: datetime | None
    until: datetime | None
    tenant: str | None
    model: str | None
    requests: int | None

    def check(self) -> None:
        """UsageError where options do not go together."""
        given = [self.trace is not None, self.history, self.generate is not None]
        if sum(given) != 1:
            raise click.UsageError("give one of --trace, --history and --generate")
        if self.lengths is not None and self.generate is None:
            raise click.UsageError("--lengths goes with --generate")
        if not self.history and any((self.since, self.until, self.tenant, self.model)):
            raise click.UsageError("--from, --to, --tenant and --model go with --history")


class Source(Struct, frozen=True):
    """Requests, or with `drawn` lengths to draw so many from; and what the user calls them."""

    workload: Workload
    name: str
    drawn: int | None


def given_source(asked: Asked) -> Source:
    """The requests that were asked for."""
    if asked.generate is not None:
        return _lengths(asked)
    if asked.trace is not None:
        workload, name = read_trace(asked.trace), f"of {asked.trace.name}"
    else:
        workload, name = _history(asked)
    if asked.requests is not None and asked.requests < len(workload):
        workload, name = workload.take(slice(asked.requests)), f"{name}, the first"
    return Source(workload, name, None)


def _lengths(asked: Asked) -> Source:
    drawn = asked.requests or DRAWN
    if asked.lengths is None:
        return Source(typical_lengths(), "with lengths of a chat service", drawn)
    return Source(read_trace(asked.lengths), f"drawn from {asked.lengths.name}", drawn)


def _history(asked: Asked) -> tuple[Workload, str]:
    from gateway.cli.replay_history import read_window  # noqa: PLC0415 - the database's drivers
    from gateway.replay.workload.history import Window  # noqa: PLC0415

    window = Window(since=asked.since, until=asked.until, tenant=asked.tenant, model=asked.model)
    name = "of history"
    name += f" from {asked.since:%Y-%m-%d %H:%M}" if asked.since else ""
    name += f" to {asked.until:%Y-%m-%d %H:%M}" if asked.until else ""
    name += f" of tenant {asked.tenant}" if asked.tenant else ""
    return read_window(window), name


def given_engine(file: Path | None, name: str | None) -> tuple[EngineModel, str]:
    """The engine of a calibration file, or a published one, and what to call it."""
    if file is None:
        return profile(name or DEFAULT), name or DEFAULT
    if name is not None:
        raise click.UsageError("give --engine or --profile, not both")
    return read_engine(file), file.name


def moment(_context: click.Context, parameter: click.Parameter, value: Any) -> datetime | None:
    """An option's ISO 8601 time; without a zone it is UTC."""
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is not a time like 2026-03-31 or 2026-03-31T08:00+02:00",
            param=parameter,
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
