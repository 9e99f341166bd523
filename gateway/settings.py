"""Every setting of the gateway, read from the environment once, at start."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from gateway.errors import StartupFailure

PREFIX = "LMAAS_"
SECRETS = ("DATABASE_URL", "LMAAS_ADMIN_KEY", "LMAAS_API_KEY")
Secret: TypeAlias = Annotated[str, Meta(min_length=8)]
DEMO_MODEL = Path(__file__).parent.parent / "engine" / "demo" / "lmaas-demo"


def _variable(name: str) -> str:
    return "DATABASE_URL" if name == "database_url" else PREFIX + name.upper()


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a child process that need not know our keys and our database."""
    return {name: value for name, value in environment.items() if name not in SECRETS}


class Settings(Struct, frozen=True, rename=_variable):
    """One field for each environment variable; the field's description is its documentation."""

    host: Annotated[str, Meta(min_length=1, description="address to serve on")] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="port to serve on; 0 takes a free one")
    ] = 8000
    data_dir: Annotated[
        str, Meta(min_length=1, description="embedded Postgres, spool, engine socket and logs")
    ] = ".lmaas"
    database_url: Annotated[
        str | None, Meta(description="Postgres 15 or newer; unset: an embedded server is started")
    ] = None
    model: Annotated[
        str, Meta(min_length=1, description="folder or hub name of the model to serve")
    ] = str(DEMO_MODEL)
    admin_key: Annotated[
        Secret | None, Meta(description="key of the admin API; unset: made at first start")
    ] = None
    api_key: Annotated[
        Secret | None, Meta(description="value of the demo app's key at first start")
    ] = None
    policy: Annotated[
        Literal["lmaas", "hrrn", "sjf", "fcfs", "magnus", "s3", "fixed"],
        Meta(
            description="scheduling policy; lmaas: shares, then response ratio within bounds; "
            "magnus: batches in lock step; fixed: batches of a fixed size, first come first"
        ),
    ] = "lmaas"
    admission: Annotated[
        Literal["own", "peak", "reserved", "maximum", "held"],
        Meta(
            description="what fits beside what runs; own: the policy's rule; peak: the expected "
            "future KV peak and as little above it as preemptions allow; reserved: the sum of "
            "P90s; maximum: the sum of max_tokens; held: what is in use"
        ),
    ] = "own"
    fixed_batch: Annotated[
        int, Meta(ge=1, description="requests in a batch under the policy fixed")
    ] = 8
    kv_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="size of the engine's KV pool, in tokens; 0: on a GPU what memory is free "
            "beside the model, on a CPU 32768",
        ),
    ] = 0
    host_kv_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="KV tokens of preempted requests that the engine keeps in host memory; "
            "0: none, they are computed again",
        ),
    ] = 32_768
    prefix_sharing: Annotated[
        bool, Meta(description="keep the KV memory of equal prefixes of one tenant once")
    ] = True
    page_tokens: Annotated[int, Meta(ge=1, le=1024, description="KV tokens a page")] = 16
    batch_waste: Annotated[
        int, Meta(ge=0, description="Φ: token reads a batch may waste before a new one is opened")
    ] = 50_000
    max_delay_s: Annotated[
        float,
        Meta(
            gt=0,
            description="a request starts at most this much later than first come, first served "
            "would start it; divided by its tier's urgency",
        ),
    ] = 60.0
    waiting_weight: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="how waiting weighs against length: 0 is cheapest first; the default "
            "trades some of its mean for the tail; with 20 the slowest answers in overload are "
            "hardly slower than first come, first served would make them",
        ),
    ] = 3.0
    tau_floor: Annotated[
        float,
        Meta(
            ge=-1,
            le=1,
            description="rolling Kendall τ of predictions below which requests go in order of "
            "arrival",
        ),
    ] = 0.2
    preempted_share: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="preemptions for each request, at most, where many wait for memory: a "
            "pause for a few, and more requests at once for all; the more run, the fewer",
        ),
    ] = 0.1
    prediction_budget_ms: Annotated[
        float, Meta(gt=0, description="longest wait for a prediction; then history answers")
    ] = 50.0
    automatic_training: Annotated[
        bool,
        Meta(
            description="this gateway starts training runs by the schedule that the admin API sets"
        ),
    ] = True
    drain_s: Annotated[
        float, Meta(ge=0, description="at a stop, running requests have this long to finish")
    ] = 20.0
    engine_socket: Annotated[
        str | None, Meta(description="socket of an engine run elsewhere; unset: one is started")
    ] = None
    engine_threads: Annotated[
        int,
        Meta(
            ge=0,
            description="CPU threads of the engine; 0: all cores but one, which the gateway needs",
        ),
    ] = 0
    engine_step_tokens: Annotated[
        int, Meta(ge=1, description="tokens the engine runs in one step; longer prompts are cut")
    ] = 512
    engine_device: Annotated[
        Literal["auto", "cpu", "cuda"], Meta(description="where the engine runs the model")
    ] = "auto"
    engine_dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Meta(
            description="the engine's number format; auto: float32 on a CPU, else the model's own"
        ),
    ] = "auto"
    engine_graph_rows: Annotated[
        int,
        Meta(
            ge=0,
            description="on a GPU, largest decode step that the engine keeps as a CUDA graph; "
            "0: none",
        ),
    ] = 128
    engine_step_limit_s: Annotated[
        float,
        Meta(
            gt=0,
            description="a step of the engine under way for longer means a hung device: the engine "
            "ends and is started again",
        ),
    ] = 120.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severe event logged")
    ] = "info"

    @property
    def data_folder(self) -> Path:
        """The data folder's absolute path."""
        return Path(self.data_dir).expanduser().absolute()

    @property
    def model_name(self) -> str:
        """What clients call the model: the folder's name, or the hub name."""
        return Path(self.model).name if Path(self.model).is_dir() else self.model


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of an environment. StartupFailure names a wrong or unknown variable."""
    known = {field.encode_name for field in msgspec.structs.fields(Settings)}
    given = {name: value for name, value in environment.items() if name in known and value != ""}
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise StartupFailure(
            f"unknown setting {unknown[0]}; accepted are {', '.join(sorted(known))}"
        )
    try:
        return msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at ")
        variable = place.strip("`$.") or "the environment"
        names = ", ".join(_choices(variable))
        accepted = f"; accepted are {names}" if names else ""
        raise StartupFailure(f"{variable}: {reason}{accepted}") from error


def _choices(variable: str) -> tuple[str, ...]:
    """The values of a setting that takes one of some names; none for any other."""
    types = {field.encode_name: field.type for field in msgspec.structs.fields(Settings)}
    plain = next(iter(get_args(types.get(variable))), None)
    return get_args(plain) if get_origin(plain) is Literal else ()
