"""The requests and the engine of `lmaas replay`, as its options give them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from msgspec import Struct

from gateway.replay.cost.model import EngineModel, read_engine
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


def read_source(options: SourceOptions) -> RequestSource:
    """The requests that the options select."""
    if options.generate is not None:
        return _lengths(options)
    if options.trace is not None:
        workload, name = read_trace(options.trace), f"of {options.trace.name}"
    else:
        workload, name = _history(options)
    if options.requests is not None and options.requests < len(workload):
        workload, name = workload.take(slice(options.requests)), f"{name}, the first"
    return RequestSource(workload, name, None)


def _lengths(options: SourceOptions) -> RequestSource:
    sample_size = options.requests or DEFAULT_SAMPLE_SIZE
    if options.lengths is None:
        return RequestSource(synthetic_lengths(), "with lengths of a chat service", sample_size)
    return RequestSource(
        read_trace(options.lengths), f"drawn from {options.lengths.name}", sample_size
    )


def _history(options: SourceOptions) -> tuple[Workload, str]:
    from gateway.cli.replay_history import read_window  # noqa: PLC0415 - the database's drivers
    from gateway.replay.workload.history import HistoryWindow  # noqa: PLC0415

    window = HistoryWindow(
        since=options.since, until=options.until, tenant=options.tenant, model=options.model
    )
    name = "of history"
    name += f" from {options.since:%Y-%m-%d %H:%M}" if options.since else ""
    name += f" to {options.until:%Y-%m-%d %H:%M}" if options.until else ""
    name += f" of tenant {options.tenant}" if options.tenant else ""
    return read_window(window), name


def read_engine_option(file: Path | None, name: str | None) -> tuple[EngineModel, str]:
    """The engine of a calibration file, or one by name, and a name for the user."""
    if file is None:
        return profile(name or DEFAULT_PROFILE), name or DEFAULT_PROFILE
    if name is not None:
        raise click.UsageError("give --engine or --profile, not both")
    return read_engine(file), file.name


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
