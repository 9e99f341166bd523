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
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            description="most open connections; further ones get 503, health routes excepted",
        ),
    ] = 1000
    max_header_bytes: Annotated[
        int, Meta(ge=1024, le=1 << 20, description="largest request line and headers, in bytes")
    ] = 64 << 10
    max_headers: Annotated[int, Meta(ge=10, le=1000, description="most headers of a request")] = 100
    header_timeout_s: Annotated[
        float,
        Meta(gt=0, description="longest time that a request's headers may take, in seconds"),
    ] = 10.0
    body_timeout_s: Annotated[
        float,
        Meta(gt=0, description="longest time that a request's body may take, in seconds"),
    ] = 60.0
    max_body_values: Annotated[
        int,
        Meta(
            ge=1000,
            description="most keys and values in a JSON body, or one for each token of the model's "
            "context if that is more; 20000 are a conversation of 4000 messages",
        ),
    ] = 20_000
    cors_origins: Annotated[
        str,
        Meta(
            pattern=r"^(\*|https?://[^\s,/]+(,https?://[^\s,/]+)*)$",
            description="origins of web pages that may call the APIs, such as "
            "`https://chat.example.org`, with commas between them; `*`: all; unset: none",
        ),
    ] = ""
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
            description="scheduling policy, see scheduling.md; lmaas: shares between tenants, then "
            "waiting time against cost, within bounds; magnus: batches that start and end "
            "together; fixed: batches of a fixed size, first come, first served"
        ),
    ] = "lmaas"
    admission: Annotated[
        Literal["own", "peak", "reserved", "maximum", "held"],
        Meta(
            description="rule for what fits into KV memory with what runs; own: the policy's rule; "
            "peak: the expected future peak plus a margin that adapts to preemptions; reserved: "
            "the sum of the 0.9 quantiles; maximum: the sum of max_tokens; held: what is in use now"
        ),
    ] = "own"
    fixed_batch: Annotated[
        int, Meta(ge=1, description="requests in a batch under the policy fixed")
    ] = 8
    kv_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="size of the engine's KV pool, in tokens; 0: on a GPU the memory that the "
            "model leaves free, on a CPU 32768",
        ),
    ] = 0
    host_kv_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="KV tokens of preempted requests that the engine keeps in host memory; "
            "0: none, preempted requests are computed again",
        ),
    ] = 32_768
    prefix_sharing: Annotated[
        bool, Meta(description="store equal prompt prefixes of one tenant once in KV memory")
    ] = True
    page_tokens: Annotated[
        int, Meta(ge=1, le=1024, description="tokens in a page of KV memory")
    ] = 16
    batch_waste: Annotated[
        int,
        Meta(
            ge=0,
            description="under the policy magnus: KV token reads that a batch may waste on padding "
            "and waiting before another batch is opened (the paper's Φ)",
        ),
    ] = 50_000
    max_delay_s: Annotated[
        float,
        Meta(
            gt=0,
            description="longest delay of a request's start behind its start under first come, "
            "first served, in seconds; divided by the urgency of its service tier",
        ),
    ] = 60.0
    waiting_weight: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="weight of waiting time against cost: 0 serves the cheapest request first, "
            "for the shortest mean; higher values favour the slowest answers, which with 20 take "
            "in overload about as long as under first come, first served",
        ),
    ] = 3.0
    tau_floor: Annotated[
        float,
        Meta(
            ge=-1,
            le=1,
            description="Kendall's τ of recent predictions (1: all in the right order, 0: no "
            "better than chance) below which requests go in order of arrival",
        ),
    ] = 0.2
    preempted_share: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="target preemption rate per completed request under memory pressure; "
            "higher admits more at once, lower pauses fewer",
        ),
    ] = 0.1
    prediction_budget_ms: Annotated[
        float,
        Meta(gt=0, description="longest wait for a prediction; after it, earlier lengths are used"),
    ] = 50.0
    automatic_training: Annotated[
        bool,
        Meta(
            description="this gateway starts training runs by the schedule that the admin API sets"
        ),
    ] = True
    drain_s: Annotated[
        float,
        Meta(ge=0, description="time that running requests have to finish at a stop, in seconds"),
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
        int, Meta(ge=1, description="most tokens in a step; longer prompts are computed in parts")
    ] = 512
    engine_device: Annotated[
        Literal["auto", "cpu", "cuda"], Meta(description="where the engine runs the model")
    ] = "auto"
    engine_dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Meta(
            description="number format of the engine; auto: float32 on a CPU, else the model's own"
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
            description="longest time of an engine step, in seconds; a longer one counts as a hung "
            "device, and the engine is restarted",
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
