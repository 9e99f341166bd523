"""`python -m benchmarks FIGURE`: measure a figure, print it, and write its result."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import click

from benchmarks.attention import run as attention
from benchmarks.b1 import run as b1
from benchmarks.b1.live_run import LINES as B1_LINES
from benchmarks.b2 import run as b2
from benchmarks.b3 import run as b3
from benchmarks.dashboard import run as dashboard
from benchmarks.decision import run as decisions
from benchmarks.e4 import run as e4
from benchmarks.e4.contenders import FORMATS
from benchmarks.engine import e1, e3, prefix, step, workload
from benchmarks.engine.models import SHAPES
from benchmarks.faults import run as faults
from benchmarks.finish_band import run as finish_band
from benchmarks.form import run as form
from benchmarks.g3 import run as g3
from benchmarks.grammar import run as grammar
from benchmarks.grouping import run as grouping
from benchmarks.i1 import run as i1
from benchmarks.i2 import run as i2
from benchmarks.i3 import run as i3
from benchmarks.job_kills import run as job_kills
from benchmarks.learning import run as learning
from benchmarks.live import run as live_replay
from benchmarks.own_lengths import p1_own
from benchmarks.own_lengths import run as own_lengths
from benchmarks.own_lengths.choice import LINES
from benchmarks.p1 import run as p1
from benchmarks.p2 import run as p2
from benchmarks.p3 import run as p3
from benchmarks.p4 import run as p4
from benchmarks.p5 import run as p5
from benchmarks.prefill_head import run as prefill_head
from benchmarks.r1 import run as r1
from benchmarks.r1.hostile_clients import CLIENTS
from benchmarks.report.run import publish
from benchmarks.s1 import run as s1
from benchmarks.s1.ladder import PARTS as S1_PARTS
from benchmarks.s2 import live_run as s2_live
from benchmarks.s2 import run as s2
from benchmarks.s3 import live_run as s3_live
from benchmarks.s3 import run as s3
from benchmarks.s4 import live_run as s4_live
from benchmarks.s4 import run as s4
from benchmarks.s5 import run as s5
from benchmarks.s6 import run as s6
from benchmarks.scale import run as scale
from benchmarks.t1 import run as t1
from benchmarks.u1 import run as u1
from benchmarks.u2 import live_run as u2_live
from benchmarks.u2 import run as u2
from benchmarks.w1 import run as w1
from gateway.errors import LmaasError
from gateway.evaluation.lengths import LengthRule
from gateway.replay.cost.model import EngineModel, read_engine
from gateway.replay.cost.profiles import DEFAULT_PROFILE as PUBLISHED
from gateway.replay.cost.profiles import profile

U2_PARTS = ("replay", "live")
SMOLLM2 = Path(".lmaas", "models", "smollm2")  # in the default data folder
threads_option = click.option("--threads", default=2, show_default=True, help="cores to use")
model_option = click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=SMOLLM2,
    show_default=True,
    help="folder of SmolLM2, or of another Llama",
)
sizes = click.Choice(list(SHAPES))


def _given(context: click.Context, _: click.Parameter | None, data: Path | None) -> Path:
    """The folder. ClickException without one."""
    if data is None:
        raise click.ClickException(
            f"{context.info_name} needs a folder of texts: --data DIR, or LENGTH_DATA=DIR"
        )
    return data


data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="LENGTH_DATA",
    callback=_given,
    help="folder of texts (docs/prediction.md); by default LENGTH_DATA",
)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Report LMaaS's own errors in one line."""
    try:
        yield
    except LmaasError as error:
        raise click.ClickException(error.message) from error


trace_option = click.option(
    "--trace",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="ARRIVAL_TRACE",
    help="arrivals and lengths of a real service (docs/replay.md); by default ARRIVAL_TRACE",
)


def _engine(_context: click.Context, _: click.Parameter, file: Path | None) -> EngineModel:
    """The engine of a calibration file, or the default published one."""
    with _errors_in_one_line():
        return profile(PUBLISHED) if file is None else read_engine(file)


engine_option = click.option(
    "--engine",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_engine,
    help=f"an engine measured by lmaas calibrate  [default: {PUBLISHED} as published]",
)
quick_option = click.option("--quick", is_flag=True, help="a quick look, with fewer requests")
jobs_option = click.option("--jobs", default=2, show_default=True, help="processes to replay in")


@click.group()
def main() -> None:
    """Measure a figure of the project. Results go to benchmarks/results.

    A run with another workload than the figure's is a quick look: its result goes to .bench/looks.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("interrupted"))  # and end the contestants


@main.result_callback()
def report_page(*_: object) -> None:
    """Write docs/report.md from the results, those of this run included."""
    publish()


@main.command("B1")
@click.option("--part", default=",".join(b1.PARTS), show_default=True, help="parts to measure")
@click.option("--lines", default=B1_LINES, show_default=True, help="lines of the job run live")
@threads_option
@quick_option
@jobs_option
def shared_prompts(part: str, lines: int, threads: int, quick: bool, jobs: int) -> None:
    """Prompt tokens computed for a batch job of prefix groups, replayed and live."""
    b1.run(_among(part, list(b1.PARTS)), lines, threads, quick=quick, jobs=jobs)


@main.command("B2")
@click.option("--rounds", default=b2.ROUNDS, show_default=True, help="runs of each contestant")
@click.option("--size", type=sizes, default=b2.SIZE, show_default=True, help="model to run")
@click.option("--lines", type=int, help="lines of each degree of sharing, for a quick look")
@threads_option
def batch_makespan(rounds: int, size: str, lines: int | None, threads: int) -> None:
    """Mixed batch jobs in our gateway, in our engine alone and in vLLM."""
    b2.run(rounds, size, threads, lines)


@main.command("B3")
@click.option("--rounds", default=b3.ROUNDS, show_default=True, help="runs of each kind of pass")
@click.option("--requests", default=b3.REQUESTS, show_default=True, help="requests of a pass")
@click.option("--load", default=b3.LOAD, show_default=True, help="of what the engine sustains")
def batch_protection(rounds: int, requests: int, load: float) -> None:
    """Interactive requests with a batch job and without."""
    b3.run(rounds, requests, load)


@main.command("E1")
@click.option("--rounds", default=5, show_default=True, help="runs of each contestant")
@click.option("--slow-rounds", default=3, show_default=True, help="runs of transformers on m100")
@click.option("--sizes", "chosen", default="tiny,m100", show_default=True, help="models to run")
@click.option(
    "--only", default="", help=f"of {', '.join(n for s in e1.CONTENDERS.values() for n in s)}"
)
@click.option("--requests", default=workload.MIXED, show_default=True, help="requests of the mix")
@threads_option
def engines(
    rounds: int, slow_rounds: int, chosen: str, only: str, requests: int, threads: int
) -> None:
    """Our engine on CPU against transformers and vLLM."""
    names = _among(only, [name for names in e1.CONTENDERS.values() for name in names])
    e1.run(rounds, slow_rounds, _among(chosen, list(SHAPES)), names, requests, threads)


@main.command("E3")
@click.option("--rounds", default=3, show_default=True, help="runs of each policy")
@click.option("--requests", default=workload.MIXED, show_default=True, help="requests of the mix")
@click.option("--size", type=sizes, default=e3.SIZE, show_default=True, help="model to run")
@threads_option
def reservations(rounds: int, requests: int, threads: int, size: str) -> None:
    """The engine with a fixed KV pool, under several reservation rules."""
    e3.run(rounds, requests, threads, size)


@main.command("E4")
@data_option
@model_option
@click.option("--rounds", default=5, show_default=True, help="runs of each engine")
@click.option("--clients", default="1,8,32", show_default=True, help="numbers of clients")
@click.option("--only", default="", help=f"of {', '.join(FORMATS)}")
@threads_option
def real_model(data: Path, model: Path, rounds: int, clients: str, only: str, threads: int) -> None:
    """Our engine, vLLM and llama.cpp with SmolLM2."""
    numbers = [int(name) for name in _among(clients, [str(each) for each in e4.CLIENTS])]
    with _errors_in_one_line():
        e4.run(data, model, rounds, numbers, _among(only, list(FORMATS)), threads)


@main.command("G3")
@click.option("--rows", default=g3.ROWS, show_default=True, help="rows of history")
@click.option("--rounds", default=g3.ROUNDS, show_default=True, help="calls of each kind")
@click.option("--only", default=",".join(g3.PARTS), show_default=True, help="parts to measure")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="where the database is made and kept; by default a temporary folder, deleted at the end",
)
def history(rows: int, rounds: int, only: str, folder: Path | None) -> None:
    """Lists, usage, the training read and retention on millions of rows of history."""
    with _errors_in_one_line():
        g3.run(rows, rounds, _among(only, list(g3.PARTS)), folder)


@main.command("P1")
@data_option
@click.option(
    "--lengths", type=click.Choice([*p1.ALL_RULES, "both"]), default="both", show_default=True
)
@click.option("--apps", default="", help="only these apps, separated by commas")
@threads_option
def predictions(data: Path, lengths: LengthRule | Literal["both"], apps: str, threads: int) -> None:
    """Length prediction on real text."""
    rules = p1.ALL_RULES if lengths == "both" else (lengths,)
    with _errors_in_one_line():
        p1.run(data, rules, [app for app in apps.split(",") if app], threads)


@main.command("P1-own")
@data_option
@threads_option
def own_predictions(data: Path, threads: int) -> None:
    """Length prediction on the lengths of SmolLM2's own answers."""
    with _errors_in_one_line():
        p1_own.run(data, threads)


@main.command("form")
@data_option
@threads_option
def forms(data: Path, threads: int) -> None:
    """Length prediction with and without the form of an answer: free, JSON, tool call."""
    with _errors_in_one_line():
        form.run(data, threads)


@main.command("own-lengths")
@data_option
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=SMOLLM2,
    show_default=True,
    help="folder of SmolLM2, or of another model",
)
@click.option("--lines", default=LINES, show_default=True, help="lines of an app, at least")
@click.option("--clients", default=own_lengths.CLIENTS, show_default=True, help="requests at once")
@threads_option
def answers(data: Path, model: Path, lines: int, clients: int, threads: int) -> None:
    """SmolLM2's answers to the texts: their lengths, for P1-own."""
    with _errors_in_one_line():
        own_lengths.run(data, model, lines, clients, threads)


@main.command("prefill-head")
@data_option
@model_option
@threads_option
def after_prefill(data: Path, model: Path, threads: int) -> None:
    """What the model's hidden state after prefill adds to length prediction."""
    with _errors_in_one_line():
        prefill_head.run(data, model, threads)


@main.command("P2")
@data_option
@click.option(
    "--model",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="folder of a further model to serve, besides the demo model",
)
@click.option(
    "--only", default=",".join(p2.USUAL_PARTS), show_default=True, help="parts to measure"
)
@threads_option
def cost(data: Path, model: Path | None, only: str, threads: int) -> None:
    """Which predictions requests start by, and the cost of a prediction."""
    with _errors_in_one_line():
        p2.run(data, model, _among(only, list(p2.PARTS)), threads)


@main.command("P3")
@data_option
@click.option("--only", default=",".join(p3.PARTS), show_default=True, help="parts to measure")
@threads_option
def change(data: Path, only: str, threads: int) -> None:
    """Length prediction for new apps and changing traffic."""
    with _errors_in_one_line():
        p3.run(data, _among(only, list(p3.PARTS)), threads)


@main.command("P4")
@data_option
@threads_option
def short_or_long(data: Path, threads: int) -> None:
    """Short against long answers on OASST1, against published scores."""
    with _errors_in_one_line():
        p4.run(data, threads)


@main.command("P5")
@data_option
@click.option("--most", default=max(p5.TEXT_ROWS), show_default=True, help="rows to train on")
@threads_option
def learning_curve(data: Path, most: int, threads: int) -> None:
    """Length prediction from few rows on, against a line per app."""
    with _errors_in_one_line():
        p5.run(data, most, threads)


@main.command("R1")
@click.option("--only", default=",".join(r1.PARTS), show_default=True, help="parts to measure")
@click.option("--clients", default=",".join(CLIENTS), show_default=True, help="hostile clients")
@click.option(
    "--scripts",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="folder of further clients, c*.py; they get BASE_URL, KEY and ADMIN_KEY",
)
def robustness(only: str, clients: str, scripts: Path | None) -> None:
    """How late `/health/live` is answered while a client is hostile."""
    if "liveness" in _among(only, list(r1.PARTS)):
        r1.run(_among(clients, list(CLIENTS)), scripts, {"engine_threads": 1})


@main.command("R1-faults")
@click.option("--rounds", default=faults.ROUNDS, show_default=True, help="faults of each kind")
@click.option("--seed", default=faults.SEED, show_default=True, help="draws load and order")
@click.option(
    "--databases", default=",".join(faults.DATABASES), show_default=True, help="whose server it is"
)
def under_faults(rounds: int, seed: int, databases: str) -> None:
    """A gateway under load whose parts are killed and stopped."""
    with _errors_in_one_line():
        faults.run(rounds, seed, _among(databases, list(faults.DATABASES)))


@main.command("S0")
@click.option(
    "--requests", default=live_replay.REQUESTS, show_default=True, help="requests of each policy"
)
@click.option(
    "--load",
    default=live_replay.LOAD,
    show_default=True,
    help="relative to the saturated throughput",
)
def faithfulness(requests: int, load: float) -> None:
    """The live gateway against a replay of the same requests."""
    with _errors_in_one_line():
        live_replay.run(requests, load)


@main.command("S1")
@data_option
@click.option("--part", default=",".join(S1_PARTS), show_default=True, help="parts to measure")
@click.option(
    "--model",
    type=click.Path(file_okay=False, path_type=Path),
    default=SMOLLM2,
    show_default=True,
    help="folder of SmolLM2, for the live part",
)
@quick_option
@jobs_option
def ladder(data: Path, part: str, model: Path, quick: bool, jobs: int) -> None:
    """The ladder of Magnus: lock-step batches of fixed size up to continuous batching."""
    with _errors_in_one_line():
        s1.run(data, model, _among(part, list(S1_PARTS)), quick=quick, jobs=jobs)


@main.command("decision")
@click.option("--only", default=",".join(decisions.POLICIES), show_default=True, help="policies")
@click.option(
    "--most", default=decisions.WAITING[-1], show_default=True, help="the most requests waiting"
)
@click.option("--turns", default=decisions.TURNS, show_default=True, help="turns to time")
def scheduling(only: str, most: int, turns: int) -> None:
    """The cost of a scheduling decision."""
    names = _among(only, list(decisions.POLICIES))
    chosen = [policy for policy in decisions.POLICIES if policy in names]
    decisions.run(chosen, most, turns)


@main.command("I1")
@model_option
@threads_option
@click.option("--prompt", default=i1.PROMPT_TOKENS, show_default=True, help="tokens")
@click.option("--fed", default=i1.FED_TOKENS, show_default=True, help="tokens after the prompt")
def offloaded_exactness(model: Path, threads: int, prompt: int, fed: int) -> None:
    """Logits and bytes of sequences in host memory."""
    i1.run(model, threads, prompt, fed)


@main.command("I2")
@model_option
@threads_option
@click.option("--context", multiple=True, type=int, default=i2.CONTEXTS, help="tokens of the texts")
def offloaded_quality(model: Path, threads: int, context: tuple[int, ...]) -> None:
    """What answers lose where a step attends to a part of the keys and values."""
    i2.run(model, threads, context)


@main.command("I3")
@model_option
@threads_option
@quick_option
def offloaded_speed(model: Path, threads: int, quick: bool) -> None:
    """Tokens a second with keys and values in host memory, behind slow links."""
    i3.run(model, threads, quick=quick)


@main.command("grouping")
@click.option("--lines", default=grouping.LINES, show_default=True, help="lines of each job")
def plans(lines: int) -> None:
    """The time and memory of planning a batch job."""
    grouping.run(lines)


@main.command("dashboard")
@click.option("--rounds", default=dashboard.ROUNDS, show_default=True, help="rounds")
@click.option("--seconds", default=dashboard.ROUND_S, show_default=True, help="of half a round")
def page_of_browsers(rounds: int, seconds: float) -> None:
    """What viewers of the page cost the gateway, and how soon a first view is there."""
    with _errors_in_one_line():
        dashboard.run(rounds, seconds)


@main.command("finish-band")
@click.option("--simulated", default=finish_band.SIMULATED, show_default=True, help="jobs")
@click.option("--live", default=finish_band.LIVE, show_default=True, help="jobs")
def finish_bands(simulated: int, live: int) -> None:
    """How often a batch job ends in the band that is shown while it runs."""
    finish_band.run(simulated, live)


@main.command("job-kills")
@click.option("--lines", default=job_kills.LINES, show_default=True, help="lines of the job")
@click.option("--rounds", default=job_kills.ROUNDS, show_default=True, help="kills of each part")
def killed_job(lines: int, rounds: int) -> None:
    """A batch job whose engine, PostgreSQL and gateway are killed."""
    with _errors_in_one_line():
        job_kills.run(lines, rounds)


@main.command("S2")
@data_option
@trace_option
@engine_option
@quick_option
@click.option("--only", default="", help="regimes with this prefix, as texts/poisson/tight")
@jobs_option
def order(
    data: Path, trace: Path | None, engine: EngineModel, quick: bool, only: str, jobs: int
) -> None:
    """Policies on a simulated engine with continuous batching, from half load to overload."""
    with _errors_in_one_line():
        s2.run(data, trace, engine, quick=quick, only=only, jobs=jobs)


@main.command("S2-live")
@quick_option
def order_live(*, quick: bool) -> None:
    """FCFS and our policy on the live gateway at three loads, and in replay."""
    with _errors_in_one_line():
        s2_live.run(quick=quick)


@main.command("U1")
@data_option
@model_option
@quick_option
@click.option(
    "--sequences",
    type=click.Choice([str(count) for count in u1.RUNNING]),
    help="measure this part alone, and keep the other",
)
def upstream(data: Path, model: Path, *, quick: bool, sequences: str | None) -> None:
    """Requests in front of vLLM's CPU build: straight to it, and through the gateway."""
    with _errors_in_one_line():
        u1.run(data, model, quick=quick, sequences=int(sequences) if sequences else None)


@main.command("S3")
@quick_option
@jobs_option
def memory(quick: bool, jobs: int) -> None:
    """Reservation rules for answers, on simulated cards."""
    with _errors_in_one_line():
        s3.run(quick=quick, jobs=jobs)


@main.command("S6")
@quick_option
@jobs_option
def admission(quick: bool, jobs: int) -> None:
    """Admission priced in seconds against other rules, on every profile and predictor."""
    with _errors_in_one_line():
        s6.run(quick=quick, jobs=jobs)


@main.command("S3-live")
@quick_option
def memory_live(*, quick: bool) -> None:
    """Reservation rules in the live gateway at a small KV pool, and predictors that lie."""
    with _errors_in_one_line():
        s3_live.run(quick=quick)


@main.command("S4")
@engine_option
@quick_option
@jobs_option
def fairness(engine: EngineModel, quick: bool, jobs: int) -> None:
    """Tenants in overload, one of which floods or is under-predicted; on a simulated engine."""
    with _errors_in_one_line():
        s4.run(engine, quick=quick, jobs=jobs)


@main.command("S4-live")
@quick_option
def fairness_live(*, quick: bool) -> None:
    """Five tenants on the live gateway: all equal, one floods, one is under-predicted."""
    with _errors_in_one_line():
        s4_live.run(quick=quick)


@main.command("S5")
@data_option
@engine_option
@quick_option
@click.option("--only", default="", help="sources and pools with this prefix, as chat/tight")
@jobs_option
def deadlines(data: Path, engine: EngineModel, quick: bool, only: str, jobs: int) -> None:
    """Requests with deadlines in overload, on a simulated engine."""
    with _errors_in_one_line():
        s5.run(data, engine, quick=quick, only=only, jobs=jobs)


@main.command("scale")
@quick_option
def database_costs(*, quick: bool) -> None:
    """What gateways that share a database cost it: records, leases, notifications."""
    scale.run(quick=quick)


@main.command("U2")
@click.option("--part", default=",".join(U2_PARTS), show_default=True, help="parts to measure")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="LENGTH_DATA",
    help="folder of texts (docs/prediction.md), for the replay; by default LENGTH_DATA",
)
@trace_option
@engine_option
@quick_option
@click.option("--only", default="", help="replayed fleets with this prefix, as trace/16/one slow")
@jobs_option
@click.pass_context
def several_engines(
    context: click.Context,
    part: str,
    data: Path | None,
    trace: Path | None,
    engine: EngineModel,
    quick: bool,
    only: str,
    jobs: int,
) -> None:
    """Response times with several engines behind one queue: 2 to 64 replayed, two live."""
    parts = _among(part, list(U2_PARTS))
    with _errors_in_one_line():
        if "replay" in parts:
            u2.run(_given(context, None, data), trace, engine, quick=quick, only=only, jobs=jobs)
        if "live" in parts:
            u2_live.run(quick=quick)


@main.command("T1")
@data_option
def budgets(data: Path) -> None:
    """Budgets that hold what answers are predicted to use, replayed."""
    with _errors_in_one_line():
        t1.run(data)


@main.command("W1")
@engine_option
@click.option("--part", default=",".join(w1.PARTS), show_default=True, help="parts to measure")
@quick_option
@jobs_option
def waits(engine: EngineModel, part: str, quick: bool, jobs: int) -> None:
    """The wait that is reported to a client, in replay and on the live gateway."""
    with _errors_in_one_line():
        w1.run(engine, _among(part, list(w1.PARTS)), quick=quick, jobs=jobs)


@main.command("learning")
@data_option
@model_option
@quick_option
def learning_live(data: Path, model: Path, quick: bool) -> None:
    """Prediction error and response times live, with learning on and off."""
    with _errors_in_one_line():
        learning.run(data, model, quick=quick)


@main.command("attention")
@click.option("--device", default="cpu", show_default=True, help="or cuda, which writes no result")
def attention_steps(device: str) -> None:
    """Attention of rows that share a prefix, in two passes and in one."""
    attention.run(device)


@main.command("grammar")
@model_option
@click.option(
    "--suite",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="JSON_SCHEMA_SUITE",
    help="`tests` of the JSON Schema Test Suite; by default JSON_SCHEMA_SUITE, else a quick look",
)
@click.option("--rounds", default=grammar.ROUNDS, show_default=True, help="runs of each side")
@threads_option
def grammars(model: Path, suite: Path | None, rounds: int, threads: int) -> None:
    """Masks, compiling and decoding with grammars, and a suite of JSON schemas."""
    grammar.run(model, suite, rounds, threads)


@main.command("prefix")
@click.option("--rounds", default=3, show_default=True, help="runs of each setting")
@click.option(
    "--requests", default=prefix.REQUESTS, show_default=True, help="requests with one prefix"
)
@click.option("--size", type=sizes, default=prefix.SIZE, show_default=True, help="model to run")
@threads_option
def prefixes(rounds: int, requests: int, threads: int, size: str) -> None:
    """Requests with a common prefix, with and without prefix sharing."""
    prefix.run(rounds, requests, threads, size)


@main.command("step")
@click.option("--rounds", default=5, show_default=True, help="runs of the batch")
@click.option("--requests", default=step.BATCH, show_default=True, help="requests in the batch")
@click.option("--size", type=sizes, default=step.SIZE, show_default=True, help="model to run")
@threads_option
def steps(rounds: int, requests: int, threads: int, size: str) -> None:
    """The share of a step outside the model."""
    step.run(rounds, requests, threads, size)


def _among(text: str, known: list[str]) -> list[str]:
    """The names in a comma-separated list. UsageError for one that is not known."""
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            raise click.UsageError(f"{name} is none of {', '.join(known)}")
    return names


if __name__ == "__main__":
    main()
