"""`lmaas replay`: what a policy would have made of requests that came, or might come."""

from datetime import datetime
from pathlib import Path
from typing import Final, get_args

import click
import msgspec
from msgspec.structs import replace
from rich.console import Console

from gateway.cli.replay_source import Asked, Source, given_engine, given_source, moment
from gateway.errors import InvalidRequest
from gateway.replay.comparison import CONTENDERS
from gateway.replay.cost.model import EngineModel
from gateway.replay.cost.profiles import NAMES as PROFILES
from gateway.replay.plan import DEFAULT, Comparison, Plan, compare_policies
from gateway.replay.report.summary import Summary, predictions, summarise
from gateway.replay.report.table import WIDTH, tables
from gateway.replay.workload.arrivals import VARIATION, ArrivalsName
from gateway.replay.workload.predictions import TAU, PredictorName
from gateway.replay.workload.scenario import Scenario
from gateway.scheduling.admission.interface import AdmissionName
from gateway.scheduling.policy import Options

FILE: Final = click.Path(dir_okay=False, path_type=Path)
FOLDER: Final = click.Path(file_okay=False, path_type=Path)
POSITIVE: Final = click.FloatRange(min=0, min_open=True)
GENERATED: Final = tuple(name for name in get_args(ArrivalsName) if name != "trace")
GENERATED_LOAD: Final = 0.9


@click.command()
@click.option("--trace", type=FILE, help="Replay this file: CSV, .gz or not.")
@click.option("--history", is_flag=True, help="Replay what this gateway served.")
@click.option("--generate", type=click.Choice(GENERATED), help="Invent arrivals of this kind.")
@click.option("--from", "since", callback=moment, help="History from this time (ISO 8601, UTC).")
@click.option("--to", "until", callback=moment, help="History to before this time.")
@click.option("--tenant", help="History of this tenant alone, by name or id.")
@click.option("--model", help="History of this model, where the window has several.")
@click.option("--lengths", type=FILE, help="Draw lengths for --generate from this trace.")
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    help="The first so many; with --generate, how many (10,000 by default).",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(CONTENDERS),
    metavar="NAME",
    help=f"Policies to compare: {', '.join(CONTENDERS)} (told true lengths).  "
    f"[default: {' '.join(DEFAULT)}]",
)
@click.option(
    "--load",
    "loads",
    multiple=True,
    type=POSITIVE,
    metavar="SHARE",
    help="Bring arrivals to this share of what fcfs gets through, saturated.  [default: as it is]",
)
@click.option("--speed", type=POSITIVE, help="Let everything arrive so many times as fast.")
@click.option(
    "--variation",
    type=POSITIVE,
    default=VARIATION,
    help=f"Standard deviation of gamma gaps over their mean.  [default: {VARIATION:.2f}]",
)
@click.option(
    "--predictor",
    type=click.Choice(get_args(PredictorName)),
    help="What tells the lengths.  [default: recorded where there is any, else noise]",
)
@click.option(
    "--tau",
    type=click.FloatRange(0, 1, min_open=True),
    default=TAU,
    show_default=True,
    help="Kendall's τ of the noise predictor with the true lengths.",
)
@click.option("--engine", type=FILE, help="The engine that lmaas calibrate measured.")
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    metavar="NAME",
    help=f"A published engine: {', '.join(PROFILES)}.",
)
@click.option(
    "--engines",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="So many engines, each with a queue of its own, fed in turn.",
)
@click.option("--admission", type=click.Choice(get_args(AdmissionName)), help="Of all policies.")
@click.option("--max-delay-s", type=POSITIVE, help="Bound of lmaas on being passed by.")
@click.option(
    "--waiting-weight",
    type=click.FloatRange(min=0),
    help="How lmaas weighs waiting against length.",
)
@click.option(
    "--preempted-share",
    type=click.FloatRange(min=0, max=1),
    help="Preemptions for each request at most, where peak admits.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path),
    help="Write the numbers as one JSON object; - prints it instead of the tables.",
)
@click.option("--report", type=FOLDER, help="Write a page with pictures into this folder.")
def replay(
    trace: Path | None,
    history: bool,
    generate: ArrivalsName | None,
    since: datetime | None,
    until: datetime | None,
    tenant: str | None,
    model: str | None,
    lengths: Path | None,
    requests: int | None,
    policies: tuple[str, ...],
    loads: tuple[float, ...],
    speed: float | None,
    variation: float,
    predictor: PredictorName | None,
    tau: float,
    engine: Path | None,
    profile: str | None,
    engines: int,
    admission: AdmissionName | None,
    max_delay_s: float | None,
    waiting_weight: float | None,
    preempted_share: float | None,
    seeds: int,
    jobs: int,
    file: Path | None,
    report: Path | None,
) -> None:
    """Replay requests under several policies on a simulated engine.

    The requests come from one of --trace, --history and --generate. A row for each policy and load,
    every policy on the same requests. docs/replay.md tells what is simulated.
    """
    asked = Asked(
        trace=trace,
        history=history,
        generate=generate,
        lengths=lengths,
        since=since,
        until=until,
        tenant=tenant,
        model=model,
        requests=requests,
    )
    asked.check()
    if speed is not None and (loads or generate):
        raise click.UsageError("--speed is for arrivals as they are, without --load")
    _check_outputs(file, report)
    shape, engine_name = given_engine(engine, profile)
    source = _fitted(given_source(asked), shape, speed or 1.0)
    scenario = Scenario(
        source=source.workload,
        arrivals=generate or "trace",
        variation=variation,
        drawn=source.drawn,
        predictor=predictor or ("recorded" if source.workload.predicted else "noise"),
        tau=tau,
    )
    plan = Plan(
        scenario=scenario,
        engine=shape,
        policies=tuple(dict.fromkeys(policies)) or DEFAULT,
        loads=tuple(dict.fromkeys(loads)) or ((GENERATED_LOAD,) if generate else ()),
        seeds=seeds if scenario.random else 1,
        engines=engines,
        options=_options(
            admission=admission,
            max_delay_s=max_delay_s,
            waiting_weight=waiting_weight,
            preempted_share=preempted_share,
        ),
    )
    _say(f"predictions: {predictions(scenario)}")
    if plan.seeds < seeds:
        _say("nothing is left to chance: one seed says it all")
    found = compare_policies(plan, _say, jobs)
    _write(summarise(source.name, engine_name, plan, found), found, file, report)


def _check_outputs(file: Path | None, report: Path | None) -> None:
    """InvalidRequest where nothing could be written in the end."""
    if file and not file.absolute().parent.is_dir():
        raise InvalidRequest(f"there is no folder {file.absolute().parent} for the JSON")
    try:
        if report:
            report.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"{report}: {error.strerror}") from error


def _fitted(source: Source, engine: EngineModel, speed: float) -> Source:
    """The source without what the engine could not hold, arriving `speed` times as fast."""
    most = engine.shape.most_tokens
    fitting = source.workload.within(most)
    left_out = len(source.workload) - len(fitting)
    if not len(fitting):
        raise InvalidRequest(f"no request fits the engine: it holds {most:,} tokens of one")
    if left_out:
        _say(f"{left_out:,} requests are left out: longer than the {most:,} tokens of the engine")
    return Source(fitting.arriving(fitting.arrived_s / speed), source.name, source.drawn)


def _options(**given: AdmissionName | float | None) -> Options:
    """The usual options, with what was given."""
    return replace(Options(), **{name: value for name, value in given.items() if value is not None})


def _write(summary: Summary, found: Comparison, file: Path | None, report: Path | None) -> None:
    encoded = msgspec.json.format(msgspec.json.encode(summary), indent=1)
    if file == Path("-"):
        click.echo(encoded)
    else:
        console = Console(highlight=False)
        console.width = max(console.width, WIDTH)
        console.print(*summary.facts(), "", sep="\n", markup=False, soft_wrap=True)
        console.print(tables(found.rows))
        if file:
            file.write_bytes(encoded + b"\n")
    if report:
        from gateway.replay.report.report import write_report  # noqa: PLC0415 - matplotlib

        _say(f"report: {write_report(found, summary.facts(), report)}")


def _say(line: str) -> None:
    click.echo(line, err=True)
