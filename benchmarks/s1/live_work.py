"""What an engine's steps did, from the gateway's metrics, and its time at a modelled cost."""

import re
from typing import Final, NamedTuple, Self

import httpx

from gateway.replay.cost.model import LinearCost

SERIES: Final = (
    "lmaas_engine_steps_total",
    "lmaas_engine_busy_seconds_total",
    "lmaas_engine_computed_prompt_tokens_total",
    "lmaas_engine_prompt_reads_total",
    "lmaas_engine_decoded_tokens_total",
    "lmaas_engine_decode_reads_total",
    "lmaas_batch_size_count",
    "lmaas_batch_size_sum",
    "lmaas_batch_splits_total",
)
"""In the order of the fields of `EngineWork`."""

_VALUE: Final = re.compile(r"^(lmaas_\w+) (\S+)$", re.MULTILINE)


class EngineWork(NamedTuple):
    """The work of steps: everything that was computed, padding and ended rows included.

    `rows` counts a row for each step that decodes it; reads are in KV tokens. `batches` were
    started with `batched` requests in all; `splits` of them ran out of memory.
    """

    steps: float
    busy_s: float
    prompt_tokens: float
    prompt_reads: float
    rows: float
    row_reads: float
    batches: float
    batched: float
    splits: float

    def since(self, before: Self) -> Self:
        """The work after an earlier reading."""
        return type(self)(*(now - then for now, then in zip(self, before, strict=True)))

    def modelled_s(self, cost: LinearCost) -> float:
        """The time of these steps at a cost."""
        return (
            cost.step_s * self.steps
            + cost.prompt_token_s * self.prompt_tokens
            + cost.prompt_read_s * self.prompt_reads
            + cost.sequence_s * self.rows
            + cost.kv_token_s * self.row_reads
        )


def read_work(url: str) -> EngineWork:
    """The work of a gateway's engine since its start."""
    return work_of(httpx.get(f"{url}/metrics").raise_for_status().text)


def work_of(exposition: str) -> EngineWork:
    """The work in metrics in Prometheus's text format. KeyError without one of the series."""
    values = dict(_VALUE.findall(exposition))
    return EngineWork(*(float(values[name]) for name in SERIES))
