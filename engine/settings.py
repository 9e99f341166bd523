"""Every setting of the engine, read once from the environment at start."""

import os
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from engine.errors import StartupFailure

PREFIX = "LMAAS_"
OWN_PREFIX = "LMAAS_ENGINE_"

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]


def _variable(name: str) -> str:
    return PREFIX + name.upper()


class Settings(Struct, frozen=True, rename=_variable):
    """One field for each environment variable; the field's description is its documentation."""

    model: Annotated[
        str,
        Meta(
            min_length=1,
            description="the model: `demo`, `smollm2`, a folder, GGUF file or hub name",
        ),
    ]
    engine_socket: Annotated[
        str, Meta(min_length=1, description="path of the Unix socket to serve on")
    ]
    data_dir: Annotated[
        str, Meta(min_length=1, description="folder whose `models` has fetched models")
    ] = ".lmaas"
    kv_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="size of the KV pool, in tokens; 0: on a GPU the memory that the model and "
            "its largest step leave free, on a CPU LMAAS_KV_MEMORY_SHARE",
        ),
    ] = 0
    kv_memory_share: Annotated[
        float,
        Meta(
            gt=0,
            le=0.9,
            description="on a CPU, share of the available memory that the KV pool may grow to",
        ),
    ] = 0.3
    host_kv_tokens: Annotated[
        int,
        Meta(ge=0, description="KV tokens of preempted sequences kept in host memory; 0: none"),
    ] = 32_768
    offload_kv_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="KV tokens in host memory of sequences that run with most of their KV "
            "memory there; a part of each is on the device, next to the KV pool; 0: none",
        ),
    ] = 0
    prefix_sharing: Annotated[
        bool, Meta(description="share the KV memory of equal prefixes of a tenant")
    ] = True
    page_tokens: Annotated[int, Meta(ge=1, le=1024, description="KV tokens per page")] = 16
    engine_threads: Annotated[int, Meta(ge=0, description="CPU threads; 0: all cores but one")] = 0
    engine_device: Annotated[Device, Meta(description="where the model runs")] = "auto"
    engine_dtype: Annotated[
        Dtype,
        Meta(
            description="number format; auto: the model's own, and float32 on a CPU that has no "
            "instructions for it"
        ),
    ] = "auto"
    engine_step_tokens: Annotated[
        int, Meta(ge=1, description="tokens computed per step; longer prompts are chunked")
    ] = 512
    max_running: Annotated[
        int,
        Meta(
            ge=0,
            description="sequences running at once, background ones not counted; 0: 256 on a GPU, "
            "64 on a CPU",
        ),
    ] = 0
    engine_pin_share: Annotated[
        float,
        Meta(ge=0, le=0.9, description="share of the KV pool that pinned prefixes take at most"),
    ] = 0.9
    engine_background_factor: Annotated[
        float,
        Meta(
            ge=1,
            le=100,
            description="mean time of steps with background work, at most, over their time without",
        ),
    ] = 1.1
    engine_graph_rows: Annotated[
        int,
        Meta(
            ge=0, description="on a GPU, rows of the largest CUDA graph for decode steps; 0: none"
        ),
    ] = 128
    engine_step_limit_s: Annotated[
        float,
        Meta(gt=0, description="a step that takes longer means a hung device: the engine exits"),
    ] = 120.0
    max_engine_silence_s: Annotated[
        float,
        Meta(
            ge=2,
            description="longest time without a sign of life; after it, the watchdog of `lmaas "
            "engine` ends the engine",
        ),
    ] = 15.0
    max_engine_start_s: Annotated[
        float,
        Meta(
            ge=10,
            description="longest time to load the model; after it, the same watchdog ends the "
            "engine",
        ),
    ] = 600.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severe event logged")
    ] = "info"


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of an environment. StartupFailure names an invalid or unknown variable.

    Other `LMAAS_*` variables belong to the gateway and are ignored.
    """
    known = {field.encode_name for field in msgspec.structs.fields(Settings)}
    given = {name: value for name, value in environment.items() if name in known and value != ""}
    unknown = sorted(n for n in environment if n.startswith(OWN_PREFIX) and n not in known)
    if unknown:
        raise StartupFailure(
            f"unknown setting {unknown[0]}; accepted are {', '.join(sorted(known))}"
        )
    try:
        settings = msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise StartupFailure(_with_variable(str(error))) from error
    if 0 < settings.kv_tokens < settings.page_tokens:
        raise StartupFailure("LMAAS_PAGE_TOKENS: a page must not be larger than LMAAS_KV_TOKENS")
    return settings


def _with_variable(message: str) -> str:
    """The message of a failed conversion, prefixed with the variable's name."""
    reason, _, path = message.partition(" - at ")
    variable = path.strip("`$.")
    return f"{variable}: {reason}" if variable else reason
