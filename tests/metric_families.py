"""The metrics that a gateway shows, by what defines them."""

import re
from pathlib import Path
from typing import Final

from gateway.api.http_metrics import HttpMetrics
from gateway.generation.metrics import GatewayMetrics

GAUGES: Final = Path(__file__).parents[1] / "gateway" / "api" / "metrics.py"  # set at each scrape


def metric_families() -> dict[str, str]:
    """Each metric's name and kind, such as `counter`; a counter's name is without `_total`."""
    metrics = GatewayMetrics()
    HttpMetrics(metrics.registry).count_open([])
    for count in (
        metrics.count_predictions,
        metrics.count_embeddings,
        metrics.count_texts,
        metrics.count_job_faults,
        metrics.count_history,
    ):
        count({})
    registries = (metrics.registry, metrics.tenants.registry)
    named = {family.name: family.type for registry in registries for family in registry.collect()}
    return named | dict.fromkeys(re.findall(r'"(lmaas_\w+)"', GAUGES.read_text()), "gauge")
