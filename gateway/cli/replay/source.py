"""The requests and the engine of `lmaas replay`, as its options give them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from msgspec import Struct

from gateway.replay.cost.model import NamedEngine, read_engine
from gateway.replay.cost.profiles import DEFAULT_PROFILE, profile
from gateway.replay.workload.synthetic import synthetic_lengths
from gateway.replay.workload.trace import read_trace
from gateway.replay.workload.workload import Workload

DEFAULT_SAMPLE_SIZE: Final = 10_000


class SourceOptions(Struct, frozen=True, kw_only=True):
    """The options that select requests; None or False if not given."""

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
        """UsageError for options that exclude each other."""
        given = [self.trace is not None, self.history, self.generate is not None]
        if sum(given) != 1:
            raise click.UsageError("give one of --trace, --history and --generate")
        if self.lengths is not None and self.generate is None:
            raise click.UsageError("--lengths goes with --generate")
        if not self.history and any((self.since, self.until, self.tenant, self.model)):
            raise click.UsageError("--from, --to, --tenant and --model go with --history")


class RequestSource(Struct, frozen=True):
    """Requests with a name for the user; with `sample_size`, that many are drawn at random."""

    workload: Workload
    name: str
    sample_size: int | None


def read_source(
    options: SourceOptions, engine: NamedEngine | None
) -> tuple[RequestSource, NamedEngine]:
    """The requests that the options select, and the engine for them.

    Unless one is given it is the engine that served the history, else the default profile.
    """
    if options.generate is not None:
        source = _lengths(options)
    elif options.trace is not None:
        source = RequestSource(read_trace(options.trace), f"of {options.trace.name}", None)
    else:
        source, engine = _history(options, engine)
    limit = None if options.generate is not None else options.requests
    if limit is not None and limit < len(source.workload):
        source = RequestSource(
            source.workload.take(slice(limit)), f"{source.name}, the first", None
        )
    return source, engine or NamedEngine(profile(DEFAULT_PROFILE), DEFAULT_PROFILE)


def _lengths(options: SourceOptions) -> RequestSource:
    sample_size = options.requests or DEFAULT_SAMPLE_SIZE
    if options.lengths is None:
        return RequestSource(synthetic_lengths(), "with lengths of a chat service", sample_size)
    return RequestSource(
        read_trace(options.lengths), f"drawn from {options.lengths.name}", sample_size
    )


def _history(
    options: SourceOptions, engine: NamedEngine | None
) -> tuple[RequestSource, NamedEngine]:
    """The requests of history, and the given engine or else the one that served them."""
    from gateway.cli.replay.history import (  # noqa: PLC0415 - the database's drivers
        read_served_window,
        read_window,
    )
    from gateway.replay.workload.history import HistoryWindow  # noqa: PLC0415

    window = HistoryWindow(
        since=options.since, until=options.until, tenant=options.tenant, model=options.model
    )
    name = "of history"
    name += f" from {options.since:%Y-%m-%d %H:%M}" if options.since else ""
    name += f" to {options.until:%Y-%m-%d %H:%M}" if options.until else ""
    name += f" of tenant {options.tenant}" if options.tenant else ""
    if engine is not None:
        return RequestSource(read_window(window), name, None), engine
    workload, served_by = read_served_window(window)
    return RequestSource(workload, name, None), served_by


def read_engine_option(file: Path | None, name: str | None) -> NamedEngine | None:
    """The engine of a calibration file, or one by name; None if neither is given."""
    if file is not None and name is not None:
        raise click.UsageError("give --engine or --profile, not both")
    if file is not None:
        return NamedEngine(read_engine(file), file.name)
    return None if name is None else NamedEngine(profile(name), name)


def parse_time(_context: click.Context, parameter: click.Parameter, value: Any) -> datetime | None:
    """The value of an option as ISO 8601 time; UTC if it has no zone."""
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
