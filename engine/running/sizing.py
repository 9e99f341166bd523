"""How many KV pages and running sequences a machine makes use of."""

from typing import Final

import torch

from engine.errors import StartupFailure
from engine.running.model import LoadedModel
from engine.running.runner import Runner
from engine.settings import Settings

CPU_KV_TOKENS: Final = 32_768  # without a setting: host memory is not ours alone
MEMORY_FRACTION: Final = 0.9  # of a GPU's free memory; the rest is for CUDA graphs and fragments

CPU_RUNNING: Final = 64  # sequences; decoding more at once raises the tokens per second no further
GPU_RUNNING: Final = 256


def max_running(model: LoadedModel, settings: Settings) -> int:
    """Sequences that run at once: as set, else as many as the kind of device makes use of."""
    return settings.max_running or (CPU_RUNNING if model.device.type == "cpu" else GPU_RUNNING)


def pool_pages(model: LoadedModel, settings: Settings) -> int:
    """Pages of the KV pool: as set, else what a GPU has free beside its largest step.

    StartupFailure where that is not even one step's.
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
            f"LMAAS_KV_TOKENS: {free >> 20} MiB are free beside the model, too little for a step "
            f"of {settings.engine_step_tokens} tokens: lower LMAAS_ENGINE_STEP_TOKENS"
        )
    return pages


def _measure(model: LoadedModel, pages: int, settings: Settings) -> tuple[int, int]:
    """Bytes that the largest step takes while it runs, and bytes of a page."""
    runner = Runner(model, pages, settings.page_tokens)
    before = torch.cuda.memory_allocated(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    runner.probe(0, settings.engine_step_tokens)
    return torch.cuda.max_memory_allocated(model.device) - before, runner.store.page_bytes
