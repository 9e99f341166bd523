"""`lmaas calibrate`: measures the cost of the engine's steps, for `lmaas replay`."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import mean, median
from typing import Final

import click
import msgspec
import uvloop
from msgspec.structs import replace

from engine.protocol import EngineInfo
from gateway.engines.measurement import MeasuredEngine, TrialProgress, measured_engine
from gateway.engines.start import engine_ready, engine_sockets, start_engine
from gateway.errors import EngineLost, LmaasError, StartupFailure
from gateway.logs import set_up_logging
from gateway.replay.cost.calibration import CalibratedEngine, FitQuality, fit_cost, lag_steps
from gateway.replay.cost.model import EngineShape
from gateway.replay.cost.trials import Trial, design_trials
from gateway.served_model import ServedModel, served_model
from gateway.settings import Settings, read_settings

ANSWER_TIMEOUT_S: Final = 10.0  # for an engine that should be running
MIN_TRIALS: Final = 10  # even if they take longer than --seconds


@click.command()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=Path("engine.json"),
    show_default=True,
    help="File to write, for `lmaas replay --engine`.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=90.0,
    show_default=True,
    help="Start no further trial after this time; a slow engine runs fewer trials.",
)
def calibrate(out: Path, seconds: float) -> None:
    """Measure the engine's step times with the model of LMAAS_MODEL, and fit their cost.

    An engine is started as by `lmaas serve`. With LMAAS_ENGINE_SOCKET, the engine that runs there
    is measured; no gateway may use it meanwhile.
    """
    settings = read_settings()
    model = served_model(settings, lambda line: click.echo(line, err=True))
    set_up_logging(settings.log_level)
    if not out.absolute().parent.is_dir():
        raise LmaasError(f"there is no folder {out.absolute().parent} for the result")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(_calibrated(settings, model, seconds))
    out.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    click.echo(_summary(found))
    click.echo(f"written to {out}")


async def _calibrated(settings: Settings, model: ServedModel, seconds: float) -> CalibratedEngine:
    """The engine as measured, after all trials or as many as the time allows."""
    async with _engine(settings, model.location) as engine:
        info = await engine.info()
        expected = _shape(info, settings.engine_step_tokens)
        ran = await _run(engine, design_trials(expected), seconds)
    steps = [step for progress in ran for step in progress.steps]
    widest = max(step.prefill_tokens + step.sequences for step in steps)
    longest = max(progress.longest_prompt for progress in ran)
    step_tokens = widest if longest > widest else settings.engine_step_tokens
    submit_delay_s = max(median(each for progress in ran for each in progress.orders_s), 0.0)
    lag = lag_steps([wait for progress in ran for wait in progress.waits], submit_delay_s)
    found = fit_cost(steps)
    return CalibratedEngine(
        cost=found.cost,
        shape=replace(_shape(info, step_tokens), lag_steps=lag, submit_delay_s=submit_delay_s),
        model=model.name,
        device=info.device,
        dtype=info.dtype,
        trials=len(ran),
        fit=found,
    )


async def _run(engine: MeasuredEngine, trials: list[Trial], seconds: float) -> list[TrialProgress]:
    """Run trials in turn while there is time, after one that only warms the engine up."""
    began_s = time.monotonic()
    await engine.run("warm-up", trials[0].arrivals)
    ran: list[TrialProgress] = []
    for trial in trials:
        passed_s = time.monotonic() - began_s
        if len(ran) >= MIN_TRIALS and passed_s > seconds:
            left = len(trials) - len(ran)
            click.echo(f"{passed_s:6.1f} s  time is up: {left} trials left out", err=True)
            break
        ran.append(await engine.run(trial.name, trial.arrivals))
        click.echo(f"{time.monotonic() - began_s:6.1f} s  {_progress(ran[-1], trial)}", err=True)
    return ran


def _progress(progress: TrialProgress, trial: Trial) -> str:
    step_s = mean(step.took_s for step in progress.steps)
    return f"{trial.name}: {len(progress.steps)} steps of {1000 * step_s:.3g} ms"


@asynccontextmanager
async def _engine(settings: Settings, model: str) -> AsyncIterator[MeasuredEngine]:
    """A connection to the running engine, or to one started here in a temporary folder.

    StartupFailure if the model runs on a server: it takes no measurements.
    """
    if settings.upstream is not None:
        raise StartupFailure("LMAAS_UPSTREAM is set: only this project's own engine is measured")
    if settings.engine_socket:
        running, *others = engine_sockets(settings)
        if others:
            raise StartupFailure("LMAAS_ENGINE_SOCKET names several engines: measure one at a time")
        async with measured_engine(str(running)) as engine:
            await _wait_for_running(engine, str(running))
            yield engine
        return
    click.echo("starting the engine", err=True)
    with tempfile.TemporaryDirectory(prefix="lmaas-") as folder:
        socket = Path(folder) / "engine.sock"
        supervisor = await start_engine(settings, model, Path(folder) / "engine.log", socket)
        try:
            async with measured_engine(str(socket)) as engine:
                await engine_ready(engine.info(), [supervisor], settings.max_engine_start_s)
                yield engine
        finally:
            await supervisor.stop()


async def _wait_for_running(engine: MeasuredEngine, socket: str) -> None:
    """Returns once the running engine answers. EngineLost if it does not."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await engine.info()
    except TimeoutError as error:
        raise EngineLost(f"LMAAS_ENGINE_SOCKET: no engine answers on {socket}") from error


def _shape(info: EngineInfo, step_tokens: int) -> EngineShape:
    return EngineShape(
        pages=info.kv.pages,
        page_tokens=info.kv.page_tokens,
        step_tokens=step_tokens,
        max_sequences=info.max_running or None,
        context_tokens=info.context_tokens,
    )


def _summary(found: CalibratedEngine) -> str:
    """The fitted cost and its errors, as text."""
    cost, shape = found.fit.cost, found.shape
    worst, mix = found.fit.worst, found.fit.mix
    lines = [
        f"{found.model} on {found.device} ({found.dtype}), {found.trials} trials",
        f"a step                    {1e6 * cost.step_s:10,.2f} µs",
        f"a prompt token            {1e6 * cost.prompt_token_s:10,.3f} µs",
        f"a KV token a prompt reads {1e6 * cost.prompt_read_s:10,.4f} µs",
        f"a decoding sequence       {1e6 * cost.sequence_s:10,.2f} µs",
        f"a KV token decoding reads {1e6 * cost.kv_token_s:10,.4f} µs",
        f"{shape.pages:,} pages of {shape.page_tokens} tokens, {shape.step_tokens} tokens a step",
        f"submissions: {1000 * shape.submit_delay_s:.2f} ms sent, lag {shape.lag_steps} steps",
        f"fitted: {_quality(found.fit.fitted)}; worst {worst.trial}: {worst.error:.0%} off",
        *([f"the mix, not fitted: {_quality(mix)}"] if mix else []),
        f"step times seen by a client: {found.fit.seen:.3f} of the engine's own",
        f"left out as outliers: {found.fit.hiccups} steps",
    ]
    return "\n".join(lines)


def _quality(quality: FitQuality) -> str:
    return (
        f"{quality.steps} steps, R² {quality.r2:.3f}, median error {quality.median_error:.1%}, "
        f"sum {quality.bias:+.1%}"
    )
