"""The number of KV pages and running sequences that fit the machine."""

from typing import Final

import torch

from engine.errors import StartupFailure
from engine.running.model import LoadedModel
from engine.running.runner import Runner
from engine.settings import Settings

CPU_KV_TOKENS: Final = 32_768  # default: host memory is shared with other processes
MEMORY_FRACTION: Final = (
    0.9  # of a GPU's free memory; the rest is for CUDA graphs and fragmentation
)
CPU_RUNNING: Final = 64  # sequences; more raise the tokens per second by less than a tenth
GPU_RUNNING: Final = 256


def max_running(model: LoadedModel, settings: Settings) -> int:
    """Sequences that run at once at most: as configured, else the default of the device."""
    return settings.max_running or (CPU_RUNNING if model.device.type == "cpu" else GPU_RUNNING)


def pool_pages(model: LoadedModel, settings: Settings) -> int:
    """Pages of the KV pool: as configured, else what the model and its largest step leave free.

    StartupFailure if that is less than one step needs.
    """
    if settings.kv_tokens or model.device.type == "cpu":
        return (settings.kv_tokens or CPU_KV_TOKENS) // settings.page_tokens
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
