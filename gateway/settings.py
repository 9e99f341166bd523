"""Every setting of the gateway, read from the environment once, at start."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from gateway.errors import StartupFailure

PREFIX = "LMAAS_"
SECRETS = ("DATABASE_URL", "LMAAS_ADMIN_KEY", "LMAAS_API_KEY", "LMAAS_UPSTREAM_API_KEY")
Secret: TypeAlias = Annotated[str, Meta(min_length=8)]
ModelName: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:/@+-]+$")]
ADDRESS = r"[0-9A-Fa-f.:]+(/[0-9]{1,3})?"
Url: TypeAlias = Annotated[str, Meta(pattern=r"^https?://[^\s/]+")]
SERVER = (
    r"https?://(\[[0-9A-Fa-f:.]+\]|[^\s,/?#@:\[\]]+)"  # no user or password: these are shown
    r"(:[0-9]{1,5})?(/[^\s,?#]*)?"
)
Urls: TypeAlias = Annotated[str, Meta(pattern=rf"^\s*{SERVER}([\s,]+{SERVER})*\s*$")]


def _variable(name: str) -> str:
    return "DATABASE_URL" if name == "database_url" else PREFIX + name.upper()


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a child process, without the keys and the database's address."""
    return {name: value for name, value in environment.items() if name not in SECRETS}


class Settings(Struct, frozen=True, rename=_variable):
    """A field for each environment variable; its description is its documentation."""

    host: Annotated[str, Meta(min_length=1, description="address to serve on")] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="port to serve on; 0 takes a free one")
    ] = 8000
    trusted_proxies: Annotated[
        str,
        Meta(
            pattern=rf"^(\*|{ADDRESS}(,{ADDRESS})*)$",
            description="addresses and networks of reverse proxies, with commas between them, such "
            "as `10.0.0.0/8`, whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed; `*`: "
            "of all clients",
        ),
    ] = "127.0.0.1,::1"
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
    upload_timeout_s: Annotated[
        float,
        Meta(gt=0, description="longest time that the upload of a file may take, in seconds"),
    ] = 600.0
    max_file_bytes: Annotated[
        int, Meta(ge=1, le=1 << 40, description="largest file that may be uploaded, in bytes")
    ] = 512 << 20
    max_tenant_file_bytes: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 50,
            description="most bytes of files that a tenant keeps; beyond it uploads get 429",
        ),
    ] = 4 << 30
    max_tenant_files: Annotated[
        int, Meta(ge=1, description="most files that a tenant keeps; beyond it uploads get 429")
    ] = 1000
    file_days: Annotated[
        float,
        Meta(
            gt=0,
            le=3650,
            description="longest time that a file is kept, in days; a client can ask for less",
        ),
    ] = 30.0
    history_days: Annotated[
        float,
        Meta(
            gt=0,
            le=36_500,
            description="how long the records of finished requests are kept, in days, and the "
            "embeddings of instructions since their last use; usage stays",
        ),
    ] = 730.0
    audit_days: Annotated[
        float,
        Meta(
            gt=0,
            le=36_500,
            description="how long entries of the audit trail are kept, in days",
        ),
    ] = 1825.0
    set_aside_days: Annotated[
        float,
        Meta(
            gt=0,
            le=36_500,
            description="how long lines that history refused are kept in the spool's folder, in "
            "days",
        ),
    ] = 90.0
    max_spool_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            description="most bytes of records of requests that wait for PostgreSQL, about 5000 a "
            "request; beyond it requests get status 503",
        ),
    ] = 1 << 30
    max_body_values: Annotated[
        int,
        Meta(
            ge=1000,
            description="most keys and values in a JSON body, or one for each token of the model's "
            "context if that is more; 20000 are a conversation of 4000 messages",
        ),
    ] = 20_000
    key_lookup_s: Annotated[
        float,
        Meta(
            gt=0,
            le=30,
            description="longest time to look up an API key that is not in memory, in seconds; "
            "after it the request gets 503",
        ),
    ] = 1.5
    key_cache_s: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="longest time that an API key is accepted without a query, in seconds; "
            "a key revoked at another gateway may be accepted as long if its notification is lost",
        ),
    ] = 30.0
    cors_origins: Annotated[
        str,
        Meta(
            pattern=r"^(\*|https?://[^\s,/]+(,https?://[^\s,/]+)*)$",
            description="origins of web pages that may call the APIs, such as "
            "`https://chat.example.org`, with commas between them; `*`: all; unset: none",
        ),
    ] = ""
    data_dir: Annotated[
        str,
        Meta(
            min_length=1,
            description="folder of the embedded Postgres, fetched models, spool, engine socket and "
            "logs",
        ),
    ] = ".lmaas"
    database_url: Annotated[
        str | None,
        Meta(description="address of a Postgres 15 or newer; unset: an embedded one is started"),
    ] = None
    model: Annotated[
        str | None,
        Meta(
            description="model to serve: `demo`, `smollm2`, a folder, a GGUF file, or a name on "
            "the Hugging Face hub; unset: `smollm2` if `lmaas models fetch` fetched it, else "
            "`demo`",
        ),
    ] = None
    model_name: Annotated[
        ModelName | None,
        Meta(
            description="the model's name in the APIs, the history and the predictors; unset: the "
            "model's own, or the name of its folder or file",
        ),
    ] = None
    public_url: Annotated[
        Url | None,
        Meta(
            description="where clients reach the gateway, for the example request that is printed; "
            "unset: the address it serves on"
        ),
    ] = None
    url: Annotated[
        Url | None,
        Meta(
            description="the gateway that `lmaas admin` and `lmaas demo` call; unset: the one that "
            "runs with this data folder",
        ),
    ] = None
    admin_key: Annotated[
        Secret | None, Meta(description="key of the admin API; unset: created at the first start")
    ] = None
    api_key: Annotated[
        Secret | None,
        Meta(
            description="API key of the app `playground` of the tenant `demo`, added at the start; "
            "unset: a random one, made at the first start"
        ),
    ] = None
    policy: Annotated[
        Literal[
            "lmaas",
            "hrrn",
            "sjf",
            "fcfs",
            "s3",
            "magnus",
            "magnus-fcfs",
            "fixed-predicted",
            "fixed",
            "conservative-continuous",
        ],
        Meta(
            description="scheduling policy, see scheduling.md; lmaas: fair shares between tenants, "
            "then waiting time against cost, with bounded delay; magnus: batches of similar "
            "lengths that start and end together; fixed: the same with a fixed size, first come, "
            "first served"
        ),
    ] = "lmaas"
    admission: Annotated[
        Literal["own", "peak", "reserved", "maximum", "held"],
        Meta(
            description="admission rule: which use of KV memory must fit for a request to start; "
            "own: the policy's rule; peak: the expected future peak plus a margin that adapts to "
            "preemptions; reserved: the sum of the 0.9 quantiles of the lengths; maximum: the sum "
            "of max_tokens; held: the present use"
        ),
    ] = "own"
    fixed_batch: Annotated[
        int,
        Meta(
            ge=1,
            description="under the policies fixed and fixed-predicted: requests in a batch; under "
            "conservative-continuous: most requests that run at once",
        ),
    ] = 7
    kv_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="size of the engine's KV memory, in tokens; 0: on a GPU the memory that "
            "the model leaves free, on a CPU LMAAS_KV_MEMORY_SHARE of the memory that is there",
        ),
    ] = 0
    kv_memory_share: Annotated[
        float,
        Meta(
            gt=0,
            le=0.9,
            description="on a CPU, share of the memory available at the engine's start that its "
            "KV memory may grow to; a container's limit counts",
        ),
    ] = 0.3
    host_kv_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="size of the host memory for the KV of preempted requests, in tokens; 0: "
            "none, preempted requests are computed again",
        ),
    ] = 32_768
    offload_kv_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="size of the host memory for requests that run with most of their KV "
            "memory there, in tokens; a part of it is on the device, next to LMAAS_KV_TOKENS; 0: "
            "none",
        ),
    ] = 0
    prefix_sharing: Annotated[
        bool, Meta(description="store equal prompt prefixes of one tenant once in KV memory")
    ] = True
    page_tokens: Annotated[
        int, Meta(ge=1, le=1024, description="tokens in a page of KV memory")
    ] = 16
    waste_share: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="under the policies magnus and magnus-fcfs: most that a request of a batch "
            "may waste on padding and waiting, as a share of the KV reads of one row of the batch; "
            "beyond it another batch is opened (Φ)",
        ),
    ] = 0.85
    waste_reads: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(
            description="the same limit in KV token reads, in place of LMAAS_WASTE_SHARE: the "
            "paper's Φ, 50000 for its model",
        ),
    ] = None
    max_delay_s: Annotated[
        float,
        Meta(
            gt=0,
            description="longest delay of a request's start against first come, first served, in "
            "seconds; divided by the urgency of its service tier",
        ),
    ] = 60.0
    waiting_weight: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="weight of waiting time against cost: 0 serves the cheapest request first, "
            "for the shortest mean response time; higher values shorten the longest response "
            "times, which in overload with 20 are about those of first come, first served",
        ),
    ] = 3.0
    shares: Annotated[
        Literal["tenant", "app", "user"],
        Meta(
            description="under the policy lmaas, who gets fair shares: tenants alone (`tenant`), "
            "the apps of a tenant too (`app`), or also the users of an app (`user`)",
        ),
    ] = "user"
    tau_floor: Annotated[
        float,
        Meta(
            ge=-1,
            le=1,
            description="least Kendall's τ of recent predictions (rank correlation with the actual "
            "lengths, 1: same order, 0: chance); below it requests start in order of arrival",
        ),
    ] = 0.2
    prediction_budget_ms: Annotated[
        float,
        Meta(
            gt=0,
            description="longest wait for the model's prediction in `/v1/length-predictions` and "
            "for lines of batch jobs, in milliseconds; other requests wait for none",
        ),
    ] = 50.0
    tool_parser: Annotated[
        Literal["auto", "hermes", "llama3", "mistral", "json"],
        Meta(
            description="the form in which the model writes tool calls; `auto` takes it from the "
            "chat template, `json` asks for calls as JSON in a system message"
        ),
    ] = "auto"
    embedder: Annotated[
        str | None,
        Meta(
            description="folder of the sentence-transformers model that embeds user inputs and "
            "instructions for the length predictor; unset: the packaged all-MiniLM-L6-v2; `off`: "
            "none, and the predictor process takes 0.2 GB of memory instead of 0.65. After a "
            "change, the predictor must be trained again",
        ),
    ] = None
    automatic_training: Annotated[
        bool,
        Meta(
            description="whether this gateway starts training runs by the schedule in the admin API"
        ),
    ] = True
    drain_s: Annotated[
        float,
        Meta(ge=0, description="longest time for running requests to finish at a stop, in seconds"),
    ] = 20.0
    stop_delay_s: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="time between SIGTERM and the closing of the port, in seconds: "
            "`/health/ready` says no at once, so that load balancers send requests elsewhere, and "
            "those that still come are served; Ctrl-C closes the port at once",
        ),
    ] = 5.0
    engine_socket: Annotated[
        str | None,
        Meta(
            description="Unix socket of an engine started elsewhere; several engines of one model, "
            "with commas between them, see scale.md; unset: one is started"
        ),
    ] = None
    upstream: Annotated[
        Urls | None,
        Meta(
            description="address of an OpenAI-compatible server that runs the model, such as "
            "`http://127.0.0.1:8001` of vLLM, or of several, with commas between them, see "
            "upstream.md; then LMAAS_MODEL gives tokenizer and chat template alone, and no engine "
            "is started; unset: our own engine"
        ),
    ] = None
    upstream_api_key: Annotated[
        str | None,
        Meta(
            description="key that this server asks for; for several servers one key for all, or "
            "one each in their order, with commas between them; unset: none"
        ),
    ] = None
    upstream_model: Annotated[
        str | None,
        Meta(
            description="the model's name at this server, or at all; unset: the only one that it "
            "serves, or the one that is called as here",
        ),
    ] = None
    upstream_max_running: Annotated[
        int,
        Meta(
            ge=0,
            description="sequences that each server runs at once, of which it is given a few more; "
            "0: it says so, or it is learned from its answers",
        ),
    ] = 0
    upstream_silence_s: Annotated[
        float,
        Meta(
            gt=0,
            description="longest time that this server sends nothing while sequences run, in "
            "seconds; after it, their streams are closed and go on in others",
        ),
    ] = 60.0
    upstream_hints: Annotated[
        str,
        Meta(
            pattern=r"^((priority|nvext|llm-d)(,(priority|nvext|llm-d))*)?$",
            description="predictions to pass on to this server, with commas between them: "
            "`priority` orders vLLM's queue by length, `nvext` sends `nvext.agent_hints.osl` to "
            "NVIDIA Dynamo, `llm-d` the tenant's flow to llm-d; unset: none",
        ),
    ] = ""
    engine_threads: Annotated[
        int,
        Meta(
            ge=0,
            description="CPU threads of the engine; 0: all cores but one, which is for the gateway",
        ),
    ] = 0
    engine_step_tokens: Annotated[
        int,
        Meta(
            ge=1, description="most tokens in an engine step; longer prompts are computed in parts"
        ),
    ] = 512
    max_queued_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="most tokens queued, prompts and predicted answers of all tenants; beyond "
            "it requests get status 503; 0: four times the limit of a tenant",
        ),
    ] = 0
    max_tenant_queued_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="most tokens queued by one tenant; beyond it its requests get status 429; "
            "0: 262144, or 16 times the model's context if that is more",
        ),
    ] = 0
    max_queued_requests: Annotated[
        int,
        Meta(
            ge=1,
            description="most answers queued, each choice and prompt counted; beyond it requests "
            "get status 503",
        ),
    ] = 4096
    max_tenant_queued_requests: Annotated[
        int,
        Meta(ge=1, description="most answers queued by one tenant; beyond it its requests get 429"),
    ] = 1024
    spent_budget: Annotated[
        Literal["end", "overrun"],
        Meta(
            description="what an answer does that outgrows a hard budget: `end` with "
            "`finish_reason` `length`, or `overrun` it and go on"
        ),
    ] = "end"
    max_batch_lines: Annotated[
        int, Meta(ge=1, le=10_000_000, description="most lines in the input file of a batch")
    ] = 100_000
    max_batch_line_bytes: Annotated[
        int,
        Meta(ge=1024, le=64 << 20, description="longest line of a batch's input file, in bytes"),
    ] = 1 << 20
    max_tenant_batches: Annotated[
        int,
        Meta(
            ge=1,
            description="most batches of a tenant that have not ended; beyond it a new one gets "
            "status 429",
        ),
    ] = 100
    max_running: Annotated[
        int,
        Meta(
            ge=0,
            description="most interactive sequences running at once; more wait in the queue, where "
            "shares and order apply; 0: 256 on a GPU, 64 on a CPU; in a step of fewer tokens they "
            "take turns",
        ),
    ] = 0
    engine_device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Meta(description="device of the engine; auto: a GPU if there is one"),
    ] = "auto"
    engine_dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Meta(
            description="number format of the engine; auto: the model's own, and float32 on a CPU "
            "that has no instructions for it"
        ),
    ] = "auto"
    engine_pin_share: Annotated[
        float,
        Meta(
            ge=0,
            le=0.9,
            description="most of the KV memory that the shared prefixes of batch jobs keep, "
            "as a share",
        ),
    ] = 0.9
    engine_background_factor: Annotated[
        float,
        Meta(
            ge=1,
            le=100,
            description="most that batch jobs may lengthen engine steps with other requests on "
            "average, as a multiple of their time without",
        ),
    ] = 1.1
    engine_graph_rows: Annotated[
        int,
        Meta(
            ge=0,
            description="on a GPU: most sequences in a decode step that runs as a CUDA graph; 0: "
            "no graphs",
        ),
    ] = 128
    engine_step_limit_s: Annotated[
        float,
        Meta(
            gt=0,
            description="longest time of an engine step, in seconds; a longer one means a hung "
            "device, and the engine is restarted",
        ),
    ] = 120.0
    max_engine_silence_s: Annotated[
        float,
        Meta(
            ge=2,
            description="longest time that the engine process gives no sign of life, in seconds; "
            "after it, it is killed and started again",
        ),
    ] = 15.0
    max_engine_start_s: Annotated[
        float,
        Meta(
            ge=10,
            description="longest time that the engine takes to load its model, in seconds; after "
            "it, the gateway's start fails, and a restart of the engine begins again",
        ),
    ] = 600.0
    max_engine_outage_s: Annotated[
        float,
        Meta(
            ge=0,
            description="how long requests wait for a lost engine, in seconds from its last sign "
            "of life; one that starts again gives signs of life while it loads its model",
        ),
    ] = 30.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="least severe level that is logged"),
    ] = "info"

    @property
    def data_folder(self) -> Path:
        """The data folder's absolute path."""
        return Path(self.data_dir).expanduser().absolute()


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings in an environment. StartupFailure names an invalid or unknown variable."""
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
    """The accepted values of a setting with an enumerated type; else none."""
    types = {field.encode_name: field.type for field in msgspec.structs.fields(Settings)}
    plain = next(iter(get_args(types.get(variable))), None)
    return get_args(plain) if get_origin(plain) is Literal else ()
