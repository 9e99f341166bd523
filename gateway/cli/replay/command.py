"""`lmaas replay`: replays recorded or generated requests under several policies."""

from datetime import datetime
from pathlib import Path
from typing import Final, get_args

import click
import msgspec
from msgspec.structs import replace
from rich.console import Console

from gateway.cli.replay.job import JobOptions, job_options, read_job
from gateway.cli.replay.source import (
    RequestSource,
    SourceOptions,
    parse_time,
    read_engine_option,
    read_source,
)
from gateway.errors import InvalidRequest, shortened
from gateway.replay.comparison import CONTENDERS
from gateway.replay.cost.model import EngineModel
from gateway.replay.cost.profiles import DEFAULT_PROFILE
from gateway.replay.cost.profiles import NAMES as PROFILES
from gateway.replay.plan import DEFAULT_POLICIES, PolicyComparison, ReplayPlan, compare_policies
from gateway.replay.report.job import job_tables
from gateway.replay.report.summary import ReplaySummary, predictions, summarise
from gateway.replay.report.table import WIDTH, tables
from gateway.replay.routers import ONE_QUEUE, ROUTER_NAMES, RouterName
from gateway.replay.workload.arrivals import GAMMA_VARIATION, ArrivalsName
from gateway.replay.workload.predictions import TAU, PredictorName
from gateway.replay.workload.scenario import Scenario
from gateway.scheduling.admission.interface import AdmissionName
from gateway.scheduling.lmaas.inner_shares import ShareLevel
from gateway.scheduling.policy import Options

FILE: Final = click.Path(dir_okay=False, path_type=Path)
FOLDER: Final = click.Path(file_okay=False, path_type=Path)
POSITIVE: Final = click.FloatRange(min=0, min_open=True)
GENERATED: Final = tuple(name for name in get_args(ArrivalsName) if name != "trace")
GENERATED_LOAD: Final = 0.9
MAX_ENGINES: Final = 1_024
MIN_SPEED: Final = 0.01


def _speeds(_context: click.Context, _: click.Parameter, text: str | None) -> tuple[float, ...]:
    """The speeds in an option; none if it is not given. BadParameter says what is accepted."""
    if text is None:
        return ()
    parts = text.split(",")
    try:
        speeds = tuple(map(float, parts))
    except ValueError:
        speeds = ()
    if not (0 < len(speeds) <= MAX_ENGINES and all(MIN_SPEED <= each <= 1 for each in speeds)):
        raise click.BadParameter(
            f"{shortened(text)} is not a speed of {MIN_SPEED:g} to 1 for each of at most "
            f"{MAX_ENGINES:,} engines, such as 1,1,0.5"
        )
    return speeds


@click.command()
@click.option("--trace", type=FILE, help="Replay this file: CSV, gzipped or not.")
@click.option("--history", is_flag=True, help="Replay the requests that this gateway has served.")
@click.option("--generate", type=click.Choice(GENERATED), help="Generate arrivals of this kind.")
@click.option(
    "--from", "since", callback=parse_time, help="History from this time (ISO 8601, UTC)."
)
@click.option("--to", "until", callback=parse_time, help="History before this time.")
@click.option("--tenant", help="History of this tenant, by name or id.")
@click.option("--model", help="History of this model; required if the window has several.")
@click.option("--lengths", type=FILE, help="Draw lengths for --generate from this trace.")
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    help="The number of requests: the first N, or N generated ones (10,000 by default).",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(CONTENDERS),
    metavar="NAME",
    help=f"Policies to compare: {', '.join(CONTENDERS)} (given the true lengths).  "
    f"[default: {' '.join(DEFAULT_POLICIES)}]",
)
@click.option(
    "--load",
    "loads",
    multiple=True,
    type=POSITIVE,
    metavar="SHARE",
    help="Scale arrivals to this load: 1 is the saturated rate of fcfs.  [default: unscaled]",
)
@click.option("--speed", type=POSITIVE, help="Divide all gaps between arrivals by this factor.")
@click.option(
    "--variation",
    type=POSITIVE,
    default=GAMMA_VARIATION,
    help=f"Standard deviation of gamma gaps over their mean.  [default: {GAMMA_VARIATION:.2f}]",
)
@click.option(
    "--predictor",
    type=click.Choice(get_args(PredictorName)),
    help="The source of predicted lengths.  [default: recorded if there are any, else noise]",
)
@click.option(
    "--tau",
    type=click.FloatRange(0, 1, min_open=True),
    default=TAU,
    show_default=True,
    help="Kendall's τ of the noise predictor with the true lengths.",
)
@click.option("--engine", type=FILE, help="An engine measured by lmaas calibrate.")
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    metavar="NAME",
    help=f"An engine from published figures: {', '.join(PROFILES)}.  [default with --history: the "
    f"engine that served, as measured; else {DEFAULT_PROFILE}]",
)
@click.option(
    "--engines",
    type=click.IntRange(min=1, max=MAX_ENGINES),
    default=1,
    show_default=True,
    help="The number of engines.",
)
@click.option(
    "--speeds",
    callback=_speeds,
    metavar="SPEED,…",
    help="The speed of each engine relative to the given one, such as 1,1,0.5; instead of "
    "--engines.",
)
@click.option(
    "--router",
    type=click.Choice(ROUTER_NAMES),
    default="round-robin",
    show_default=True,
    help=f"How requests get to several engines: {ONE_QUEUE} has one queue in front of all, else "
    "each engine has its own.",
)
@click.option(
    "--admission",
    type=click.Choice(get_args(AdmissionName)),
    help="The admission rule, for all policies.",
)
@click.option(
    "--max-delay-s", type=POSITIVE, help="The longest delay that lmaas lets later requests cause."
)
@click.option(
    "--waiting-weight",
    type=click.FloatRange(min=0),
    help="The weight of waiting time against length in lmaas.",
)
@click.option(
    "--shares",
    type=click.Choice(get_args(ShareLevel)),
    help="Who gets fair shares in lmaas: tenants alone, their apps too, or also users.  "
    f"[default: {Options().shares}]",
)
@click.option(
    "--fixed-batch",
    type=click.IntRange(min=1),
    help="The size of the batches of fixed and fixed-predicted, and the most requests that "
    f"conservative-continuous runs at once.  [default: {Options().fixed_batch}]",
)
@click.option(
    "--waste-share",
    type=click.FloatRange(min=0, max=1),
    help="Magnus's limit Φ on wasted memory access, as a share of the reads of one row of the "
    f"batch.  [default: {Options().waste_share:g}]",
)
@click.option(
    "--waste-reads",
    type=click.FloatRange(min=0),
    help="Magnus's limit Φ in token reads instead, as in the paper (50,000 for its model).",
)
@job_options
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="The number of processes.",
)
@click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path),
    help="Write all numbers as a JSON object; - prints it instead of the tables.",
)
@click.option("--report", type=FOLDER, help="Write an HTML page with plots into this folder.")
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
    speeds: tuple[float, ...],
    router: RouterName,
    admission: AdmissionName | None,
    max_delay_s: float | None,
    waiting_weight: float | None,
    shares: ShareLevel | None,
    fixed_batch: int | None,
    waste_share: float | None,
    waste_reads: float | None,
    seeds: int,
    jobs: int,
    file: Path | None,
    report: Path | None,
    job: JobOptions,
) -> None:
    """Replay requests under several policies on a simulated engine.

    The requests come from one of --trace, --history and --generate. The output has a row for each
    policy and load; all policies get the same requests. docs/replay.md describes the simulation.
    """
    options = SourceOptions(
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
    options.check()
    if speed is not None and (loads or generate):
        raise click.UsageError("--speed goes with --trace and --history, without --load")
    _check_outputs(file, report)
    found_source, simulated = read_source(options, read_engine_option(engine, profile))
    source = _fitted(found_source, simulated.model, speed or 1.0)
    scenario = Scenario(
        source=source.workload,
        arrivals=generate or "trace",
        variation=variation,
        sample_size=source.sample_size,
        predictor=predictor or ("recorded" if source.workload.has_predictions else "noise"),
        tau=tau,
    )
    plan = ReplayPlan(
        scenario=scenario,
        engine=simulated.model,
        policies=tuple(dict.fromkeys(policies)) or DEFAULT_POLICIES,
        loads=tuple(dict.fromkeys(loads)) or ((GENERATED_LOAD,) if generate else ()),
        seeds=seeds if scenario.is_random else 1,
        speeds=speeds or (1.0,) * engines,
        router=router,
        options=_options(
            admission=admission,
            max_delay_s=max_delay_s,
            waiting_weight=waiting_weight,
            shares=shares,
            fixed_batch=fixed_batch,
            waste_share=waste_share,
            waste_reads=waste_reads,
        ),
        job=read_job(job, source.workload, simulated.model, _say),
    )
    _say(f"predictions: {predictions(scenario)}")
    if plan.seeds < seeds:
        _say("seeds do not differ here: one is replayed")
    found = compare_policies(plan, _say, jobs)
    _write(summarise(source.name, simulated.name, plan, found), found, file, report)


def _check_outputs(file: Path | None, report: Path | None) -> None:
    """InvalidRequest if an output could not be written at the end."""
    if file and not file.absolute().parent.is_dir():
        raise InvalidRequest(f"there is no folder {file.absolute().parent} for the JSON")
    try:
        if report:
            report.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"{report}: {error.strerror}") from error


def _fitted(source: RequestSource, engine: EngineModel, speed: float) -> RequestSource:
    """The source without requests too long for the engine, at `speed` times its rate."""
    max_tokens = engine.shape.max_sequence_tokens
    fitting = source.workload.within(max_tokens)
    left_out = len(source.workload) - len(fitting)
    if not len(fitting):
        raise InvalidRequest(
            f"no request fits the engine: a sequence has at most {max_tokens:,} tokens"
        )
    if left_out:
        reason = f"longer than the {max_tokens:,} tokens of the engine"
        _say(f"{left_out:,} requests are left out: {reason}")
    return RequestSource(
        fitting.with_arrivals(fitting.arrived_s / speed), source.name, source.sample_size
    )


def _options(**given: AdmissionName | ShareLevel | float | None) -> Options:
    """The default options with the given values."""
    return replace(Options(), **{name: value for name, value in given.items() if value is not None})


def _write(
    summary: ReplaySummary, found: PolicyComparison, file: Path | None, report: Path | None
) -> None:
    encoded = msgspec.json.format(msgspec.json.encode(summary), indent=1)
    if file == Path("-"):
        click.echo(encoded)
    else:
        console = Console(highlight=False)
        console.width = max(console.width, WIDTH)
        console.print(*summary.facts(), "", sep="\n", markup=False, soft_wrap=True)
        console.print(tables(found.rows), *job_tables(found.job_rows))
        if file:
            file.write_bytes(encoded + b"\n")
    if report:
        from gateway.replay.report.report import write_report  # noqa: PLC0415 - matplotlib

        _say(f"report: {write_report(found, summary.facts(), report)}")


def _say(line: str) -> None:
    click.echo(line, err=True)
