"""Finds out what a server is and what it can do, by asking it."""

import asyncio
from typing import Any, Final, TypeVar
from uuid import uuid4

import msgspec
from msgspec import Struct

from engine.protocol import HOST_PLACEMENTS, EngineInfo, GrammarKind, KvState
from gateway.engines.upstream.capabilities import Capabilities
from gateway.engines.upstream.exposition import read_load, read_pages
from gateway.engines.upstream.failures import (
    ServerStarting,
    ServerUnreachable,
    ServerUnusable,
)
from gateway.engines.upstream.local_model import LocalModel
from gateway.engines.upstream.server import ANSWER_S, OK, UpstreamServer, message_of

T = TypeVar("T")

TRIAL_S: Final = 60.0  # one token, by a server that may compile kernels first
PAUSES_S: Final = (0.2, 1.0)  # before an answer that may be momentary is asked for again
STARTING: Final = 503
TOO_MANY: Final = 429
FAULTS: Final = 500
DENIED: Final = (401, 403)
MISSING: Final = (404, 405)
COMPLETIONS: Final = "/v1/completions"
MAX_LISTED: Final = 10
GRAMMARS: Final[dict[GrammarKind, dict[str, str]]] = {
    "json_schema": {"json": '{"type": "object"}'},
    "regex": {"regex": "[a-z]+"},
    "lark": {"grammar": 'start: %json {"type": "object"}'},  # as llguidance reads it, like ours
}


class _Failure(Struct):
    error: dict[str, Any] | str


class _Meta(Struct):
    n_ctx: int | None = None


class _Model(Struct):
    id: str
    owned_by: str = ""
    max_model_len: int | None = None


class _Models(Struct):
    data: list[_Model] = []


class _Version(Struct):
    version: str = ""


class _Props(Struct):
    total_slots: int
    build_info: str = ""
    default_generation_settings: _Meta | None = None


class _Choice(Struct):
    token_ids: list[int] | None = None


class _Completion(Struct):
    choices: list[_Choice] = []


class _LlamaCompletion(Struct):
    tokens: list[int] = []


class Probed(Struct, frozen=True):
    """What a server can do, the model's context there, and its KV memory if it says so."""

    capabilities: Capabilities
    context_tokens: int
    kv: tuple[int, int] | None


async def probe(server: UpstreamServer, model: LocalModel, wanted: str | None) -> Probed:
    """What the server is. `wanted`: the model's name there, if it has several.

    ServerUnreachable, ServerStarting, or ServerUnusable with what to change.
    """
    found = await _model(server, model, wanted)
    props = await _read(server, "/props", _Props)
    if props is not None:
        return await _llama(server, model, found, props)
    return await _completions(server, model, found)


def described(probed: Probed, model: LocalModel, url: str, kv: KvState) -> EngineInfo:
    """The server as an engine is described: its address is the device, its name the format."""
    can = probed.capabilities
    return EngineInfo(
        epoch=uuid4().hex,
        model=can.model,
        context_tokens=min(probed.context_tokens, kv.pages * kv.page_tokens),
        vocabulary=model.vocabulary,
        stop_ids=model.stop_ids,
        kv=kv,
        device=url,
        dtype=can.name,
        offload_refusals=dict.fromkeys(HOST_PLACEMENTS, f"the model runs on {can.name}"),
        refusals=can.refusals,
        probed=can.probed,
    )


async def find_model(server: UpstreamServer, model: LocalModel, wanted: str | None) -> str:
    """The model's name at the server. Errors as of `probe`."""
    return (await _model(server, model, wanted)).id


async def _model(server: UpstreamServer, model: LocalModel, wanted: str | None) -> _Model:
    status, content = await _settled(server, "/v1/models")
    if status in DENIED:
        raise ServerUnusable(
            f"{server.url} refuses the key in LMAAS_UPSTREAM_API_KEY: {message_of(content)}"
        )
    _check_answered("/v1/models", status, content)
    if status in MISSING and wanted is not None:
        return _Model(wanted)
    listed = _decoded(content, _Models) if status == OK else None
    if listed is None:
        raise ServerUnusable(
            f"{server.url}/v1/models answered with status {status}: {message_of(content)}; "
            "LMAAS_UPSTREAM is to be the address of an OpenAI-compatible server"
        )
    names = [each.id for each in listed.data]
    name = wanted or (names[0] if len(names) == 1 else model.name)
    for each in listed.data:
        if each.id == name:
            return each
    shown = ", ".join(names[:MAX_LISTED]) or "none"
    raise ServerUnusable(
        f"{server.url} does not serve the model {name!r}; LMAAS_UPSTREAM_MODEL names one that it "
        f"serves: {shown}"
    )


async def _llama(server: UpstreamServer, model: LocalModel, found: _Model, props: _Props) -> Probed:
    """llama.cpp's server: its own route takes and returns token ids."""
    body = {"prompt": _trial_prompt(model), "n_predict": 1, "return_tokens": True}
    status, content = await _settled(server, "/completion", body)
    _check_answered("/completion", status, content)
    answer = _decoded(content, _LlamaCompletion) if status == OK else None
    if answer is None or not answer.tokens:
        raise ServerUnusable(
            f"{server.url}/completion answered with status {status}: {message_of(content)}"
        )
    settings = props.default_generation_settings
    return Probed(
        Capabilities(
            kind="llama.cpp",
            version=props.build_info,
            model=found.id,
            token_prompts=True,
            token_answers=True,
            grammars=("json_schema",),
            metrics=await _has_metrics(server),
            most_running=props.total_slots,
        ),
        _context(settings.n_ctx if settings else None, model),
        None,
    )


async def _completions(server: UpstreamServer, model: LocalModel, found: _Model) -> Probed:
    """A server of `/v1/completions`, tried with token ids both ways, with ids in, with text."""
    prompt = _trial_prompt(model)
    trial = {"model": found.id, "prompt": prompt, "max_tokens": 1, "temperature": 0}
    text = {"prompt": model.codec.prompt_text(prompt)}
    answer, tokens_in = None, True
    for fields in ({"return_token_ids": True}, {}, text):
        status, content = await _settled(server, COMPLETIONS, {**trial, **fields})
        answer = _decoded(content, _Completion) if status == OK else None
        tokens_in = fields is not text
        if answer is not None:
            break
    if answer is None:
        _check_answered(COMPLETIONS, status, content)
        raise ServerUnusable(
            f"{server.url}{COMPLETIONS} answered with status {status}: {message_of(content)}; "
            "the gateway needs this route, with token ids or text"
        )
    returned = bool(answer.choices and answer.choices[0].token_ids)
    version = await _read(server, "/version", _Version)
    vllm = returned and (found.owned_by == "vllm" or version is not None)
    status, metrics = await _settled(server, "/metrics")
    measured = status == OK and read_load(metrics) is not None
    return Probed(
        Capabilities(
            kind="vllm" if vllm else "openai",
            version=version.version if version else "",
            model=found.id,
            token_prompts=tokens_in,
            token_answers=returned,
            grammars=await _grammars(server, trial) if vllm else (),
            priority=vllm and await _takes(server, trial | {"priority": 1}),
            salts=vllm and await _knows(server, trial, "cache_salt", "probe", 0),
            intervals=vllm and await _knows(server, trial, "stream_interval", 2, 0),
            metrics=measured,
        ),
        _context(found.max_model_len, model),
        read_pages(metrics) if measured and vllm else None,
    )


async def _settled(
    server: UpstreamServer, path: str, body: dict[str, Any] | None = None
) -> tuple[int, bytes]:
    """Status and body of an answer; what may be momentary is asked for again.

    ServerStarting if the server says that it cannot serve yet: what stands in front of one that is
    away sends the same status, without an error in OpenAI's shape.
    """
    within_s = ANSWER_S if body is None else TRIAL_S
    for pause_s in (*PAUSES_S, None):
        status, content = await server.fetch(path, body, within_s=within_s)
        if status == STARTING and _decoded(content, _Failure) is not None:
            raise ServerStarting(message_of(content))
        if pause_s is None or not _momentary(status):
            break
        await asyncio.sleep(pause_s)
    return status, content


def _momentary(status: int) -> bool:
    """Whether another answer may come later."""
    return status == TOO_MANY or status >= FAULTS


def _check_answered(path: str, status: int, content: bytes) -> None:
    """ServerUnreachable if the answer of a route that is needed is still a momentary one."""
    if _momentary(status):
        raise ServerUnreachable(f"{path}: status {status}: {message_of(content)}")


async def _takes(server: UpstreamServer, body: dict[str, Any]) -> bool:
    """Whether the server answers this request."""
    status, _ = await _settled(server, COMPLETIONS, body)
    return status == OK


async def _knows(
    server: UpstreamServer, trial: dict[str, Any], name: str, right: object, wrong: object
) -> bool:
    """Whether the server reads a field: it takes a right value, and refuses a wrong one.

    One that does not know the field ignores any.
    """
    if not await _takes(server, trial | {name: right}):
        return False
    return not await _takes(server, trial | {name: wrong})


async def _grammars(server: UpstreamServer, trial: dict[str, Any]) -> tuple[GrammarKind, ...]:
    """The kinds of grammars that the server compiles; it answers others with an error."""
    found: list[GrammarKind] = [
        kind
        for kind, fields in GRAMMARS.items()
        if await _takes(server, trial | {"structured_outputs": fields})
    ]
    if found and await _takes(server, trial | {"structured_outputs": 0}):
        return ()  # it ignores them
    return tuple(found)


async def _has_metrics(server: UpstreamServer) -> bool:
    status, content = await _settled(server, "/metrics")
    return status == OK and read_load(content) is not None


async def _read(server: UpstreamServer, path: str, kind: type[T]) -> T | None:
    """The answer of a route that not every server has."""
    status, content = await _settled(server, path)
    return _decoded(content, kind) if status == OK else None


def _decoded(content: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _trial_prompt(model: LocalModel) -> list[int]:
    return model.codec.encode("Hello")


def _context(there: int | None, model: LocalModel) -> int:
    """The model's context: what the server says, else its configuration."""
    found = there or model.context_tokens
    if found is None:
        raise ServerUnusable(
            "the server does not say how long the model's context is, and neither does the "
            "config.json in LMAAS_MODEL's folder: add max_position_embeddings there"
        )
    return found
