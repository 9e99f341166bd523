"""Reads the few series that are needed from a server's Prometheus metrics."""

import re
from typing import Final

from msgspec import Struct

NUMBER: Final = rb"([0-9][0-9.]*(?:[eE][+-]?[0-9]+)?)"  # neither infinite nor below 0
LABELS: Final = re.compile(rb'(\w+)="([^"]*)"')
SERIES: Final = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|num_preemptions_total)"
    rb"(?:\{[^}]*\})? " + NUMBER,
    re.MULTILINE,
)
CONFIGURATION: Final = re.compile(rb"^vllm:cache_config_info\{([^}]*)\}", re.MULTILINE)
LLAMA: Final = re.compile(
    rb"^llamacpp:(requests_processing|requests_deferred) " + NUMBER, re.MULTILINE
)


class ServerLoad(Struct, frozen=True):
    """What runs and waits at a server, of whatever client, as of its newest metrics.

    `kv_usage` is the used share of KV memory, `preemptions` those since the server started.
    """

    running: int = 0
    waiting: int = 0
    kv_usage: float | None = None
    preemptions: int = 0


def read_load(text: bytes) -> ServerLoad | None:
    """The load in these metrics, summed over engines; None if they are of no known server."""
    found: dict[bytes, float] = {}
    for name, value in (*SERIES.findall(text), *LLAMA.findall(text)):
        found[name] = found.get(name, 0.0) + float(value)
    if not found:
        return None
    return ServerLoad(
        running=int(found.get(b"num_requests_running", found.get(b"requests_processing", 0))),
        waiting=int(found.get(b"num_requests_waiting", found.get(b"requests_deferred", 0))),
        kv_usage=found.get(b"kv_cache_usage_perc"),
        preemptions=int(found.get(b"num_preemptions_total", 0)),
    )


def read_pages(text: bytes) -> tuple[int, int] | None:
    """Pages of KV memory of all engines of the server, and tokens per page; None: not known."""
    pages, page_tokens = 0, 0
    for line in CONFIGURATION.findall(text):
        labels = dict(LABELS.findall(line))
        try:
            pages += int(labels[b"num_gpu_blocks"])
            page_tokens = int(labels[b"block_size"])
        except (KeyError, ValueError):
            return None
    return (pages, page_tokens) if pages > 0 and page_tokens > 0 else None
