"""Checks the servers that LMAAS_UPSTREAM names: whether they answer, and what they can do."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from gateway.diagnosis.finding import Finding, failure, ok, warning
from gateway.engines.upstream.failures import ServerStarting, ServerUnreachable, ServerUnusable
from gateway.engines.upstream.local_model import read_local_model
from gateway.engines.upstream.probe import Probed, probe
from gateway.engines.upstream.start import Upstream, upstream_server, upstreams
from gateway.errors import StartupFailure
from gateway.generation.text.token_codec import TextCodec
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.served_model import served_model
from gateway.settings import Settings


def check_upstreams(settings: Settings, folder: Path) -> Iterator[Finding]:
    """The servers' answers to the probes of a start; `folder` is the model's."""
    try:
        named = upstreams(settings)
    except StartupFailure as error:
        yield failure("engine", str(error), "correct the setting that it names")
        return
    for upstream in named:
        yield from _check(settings, upstream, folder)


def _check(settings: Settings, upstream: Upstream, folder: Path) -> Iterator[Finding]:
    url = upstream.url
    try:
        probed = asyncio.run(_probed(settings, upstream, folder))
    except ServerStarting as error:
        yield warning("engine", f"{url} starts: {error}", "wait until its model is loaded")
    except ServerUnreachable as error:
        remedy = "start the server, or correct LMAAS_UPSTREAM"
        yield failure("engine", f"LMAAS_UPSTREAM: {url} does not answer: {error}", remedy)
    except (ServerUnusable, StartupFailure) as error:
        yield failure("engine", f"LMAAS_UPSTREAM: {error}", "correct the setting that it names")
    else:
        can = probed.capabilities
        kv = "unknown" if probed.kv is None else f"{probed.kv[0] * probed.kv[1]:,}"
        yield ok(
            "engine",
            f"{can.name} serves {can.model} at {url}, {kv} KV tokens, context "
            f"{probed.context_tokens:,}",
        )


async def _probed(settings: Settings, upstream: Upstream, folder: Path) -> Probed:
    tokenizer = ChatTokenizer(folder)
    name = served_model(settings).name
    model = read_local_model(folder, name, tokenizer.vocabulary, TextCodec(tokenizer))
    server = upstream_server(upstream)
    try:
        return await probe(server, model, settings.upstream_model)
    finally:
        await server.close()
