"""The number of KV pages and running sequences that fit the machine."""

from collections.abc import Callable
from typing import Final

import structlog
import torch

from engine.errors import StartupFailure
from engine.running.host_memory import available_bytes
from engine.running.loaded_model import LoadedModel
from engine.running.runner import Runner
from engine.settings import Settings

MAX_SHARE: Final = 0.9  # of a CPU's available memory, for a pool of a single context
MEMORY_FRACTION: Final = (
    0.9  # of a GPU's free memory; the rest is for CUDA graphs and fragmentation
)
CPU_RUNNING: Final = 64  # interactive sequences
GPU_RUNNING: Final = 256

log = structlog.get_logger()


def max_running(model: LoadedModel, settings: Settings) -> int:
    """Interactive sequences that run at once at most: as configured, else by the device."""
    return settings.max_running or (CPU_RUNNING if model.device.type == "cpu" else GPU_RUNNING)


def pool_pages(
    model: LoadedModel, settings: Settings, available: Callable[[], int] = available_bytes
) -> int:
    """Pages of the KV pool: as configured, else by the memory that the loaded model leaves.

    `available`: bytes of memory that a CPU has left. StartupFailure if there is too little for a
    step.
    """
    if settings.kv_tokens:
        return settings.kv_tokens // settings.page_tokens
    if model.device.type == "cpu":
        page_bytes = model.kv_shape.page_bytes(settings.page_tokens, model.dtype)
        return cpu_pages(page_bytes, model.context_tokens, settings, available())
    return _gpu_pages(model, settings)


def cpu_pages(page_bytes: int, context_tokens: int, settings: Settings, available: int) -> int:
    """A share of the memory, at least one context, at most one for each of `CPU_RUNNING` sequences.

    More if `max_running` is larger; if it is smaller, background sequences use the rest. A pool
    smaller than a context limits the context. StartupFailure if there is too little for a step.
    """
    context = -(-context_tokens // settings.page_tokens)
    within_share = int(available * settings.kv_memory_share) // page_bytes
    most = int(available * MAX_SHARE) // page_bytes
    pages = min(
        max(within_share, min(context, most)), context * max(settings.max_running, CPU_RUNNING)
    )
    step_pages = -(-min(settings.engine_step_tokens, context_tokens) // settings.page_tokens)
    found = (
        f"{available >> 20:,} MiB of memory are available, and the KV memory of one context of "
        f"{context_tokens:,} tokens takes {context * page_bytes >> 20:,} MiB"
    )
    if pages < step_pages:
        raise StartupFailure(
            f"LMAAS_KV_TOKENS: {found}: free memory, or lower LMAAS_ENGINE_STEP_TOKENS"
        )
    if pages < context:
        tokens = pages * settings.page_tokens
        log.warning("context_limited", context_tokens=tokens, reason=found)
    return pages


def _gpu_pages(model: LoadedModel, settings: Settings) -> int:
    """What the model and its largest step leave free."""
    step_pages = -(-settings.engine_step_tokens // settings.page_tokens)
    step_bytes, page_bytes = _measure(model, step_pages, settings)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(model.device)
    pages = int((free * MEMORY_FRACTION - step_bytes) // page_bytes)
    if pages < step_pages:
        raise StartupFailure(
            f"LMAAS_KV_TOKENS: the model leaves {free >> 20} MiB free, too little for a step of "
            f"{settings.engine_step_tokens} tokens: lower LMAAS_ENGINE_STEP_TOKENS"
        )
    return pages


def _measure(model: LoadedModel, pages: int, settings: Settings) -> tuple[int, int]:
    """Peak bytes of the largest step beyond the model, and bytes per page."""
    runner = Runner(model, pages, settings.page_tokens)
    before = torch.cuda.memory_allocated(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    runner.probe(0, settings.engine_step_tokens)
    return torch.cuda.max_memory_allocated(model.device) - before, runner.store.page_bytes
