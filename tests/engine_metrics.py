"""Metrics of a gateway that it shows for each of its engines."""

from prometheus_client.parser import text_string_to_metric_families


def by_engine(text: str, name: str) -> dict[str, float]:
    """A metric in the answer of `/metrics`, by the number of the engine; "" where it has none."""
    return {
        sample.labels.get("engine", ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }
