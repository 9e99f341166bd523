"""Every setting of the engine, read from the environment once, at start."""

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

    model: Annotated[str, Meta(min_length=1, description="folder or hub name of the model")]
    engine_socket: Annotated[
        str, Meta(min_length=1, description="path of the Unix socket to serve on")
    ]
    kv_tokens: Annotated[int, Meta(ge=64, description="size of the KV pool, in tokens")] = 32_768
    page_tokens: Annotated[int, Meta(ge=1, le=1024, description="KV tokens a page")] = 16
    engine_threads: Annotated[int, Meta(ge=0, description="CPU threads; 0: all cores but one")] = 0
    engine_device: Annotated[Device, Meta(description="where the model runs")] = "auto"
    engine_dtype: Annotated[
        Dtype,
        Meta(description="number format; auto: float32 on a CPU, the model's own on a GPU"),
    ] = "auto"
    engine_step_tokens: Annotated[
        int, Meta(ge=1, description="tokens computed in one step; longer prompts go in chunks")
    ] = 512
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severe event logged")
    ] = "info"

    @property
    def pages(self) -> int:
        """Pages of the KV pool: whole ones only."""
        return self.kv_tokens // self.page_tokens


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of an environment. StartupFailure names a wrong or unknown variable.

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
        raise StartupFailure(_complaint(str(error))) from error
    if settings.pages == 0:
        raise StartupFailure("LMAAS_PAGE_TOKENS: a page must not be larger than LMAAS_KV_TOKENS")
    return settings


def _complaint(message: str) -> str:
    """The message of a failed conversion with the variable's name in front."""
    reason, _, place = message.partition(" - at ")
    variable = place.strip("`$.")
    return f"{variable}: {reason}" if variable else reason
