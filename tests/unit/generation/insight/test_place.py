"""Why a request is where it is, in a few words."""

from typing import Any
from uuid import UUID

import pytest

from gateway.generation.insight.place import place_reason
from gateway.generation.insight.queue_view import QueueEntry


def an_entry(**given: Any) -> QueueEntry:
    fields: dict[str, Any] = {
        "id": UUID(int=1),
        "state": "waiting",
        "tenant_id": UUID(int=2),
        "tenant": "tenant",
        "app_id": UUID(int=3),
        "app": "app",
        "lane": "interactive",
        "group": None,
        "shared_tokens": 0,
        "service_tier": "default",
        "urgency": 1.0,
        "prompt_tokens": 10,
        "max_tokens": 100,
        "predicted_tokens": 20.0,
        "predicted_p10_tokens": 10.0,
        "predicted_p90_tokens": 40.0,
        "prediction_source": "app",
        "waited_s": 1.0,
        "deadline_s": None,
        "start_by_s": None,
        "batch": "1",
        "position": 2,
        "waits_for_share": None,
        "ratio": 1.0,
        "generated_tokens": 0,
        "remaining_tokens": 20.0,
        "expected_start_s": None,
        "expected_start_band_s": None,
        "expected_finish_s": None,
        "expected_finish_band_s": None,
    }
    return QueueEntry(**fields | given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "waited little"),
        ({"position": 1}, "next to start"),
        ({"waits_for_share": "app"}, "its app has had more than its share"),
        ({"waits_for_share": "user"}, "others of the app wait"),
        ({"deadline_s": 2.0}, "due in 2.0 s"),
        ({"deadline_s": -1.0}, "overdue"),
        ({"urgency": 4.0, "service_tier": "priority"}, "priority, more urgent"),
        ({"urgency": 0.5, "service_tier": "flex"}, "flex, less urgent"),
        ({"ratio": 3.0}, "waited 2.0 × the time"),
        ({"lane": "batch"}, "line of a job"),
        (
            {"memory": "host-exact", "memory_reason": "does_not_fit"},
            "waits for host memory, as the device cannot hold it",
        ),
        (
            {"state": "running", "memory": "host-exact", "memory_reason": "would_preempt"},
            "in host memory, as the device had no room for it next to others",
        ),
        ({"state": "running"}, "prompt is being read"),
        ({"state": "running", "generated_tokens": 5}, "writes its answer"),
        ({"state": "running", "generated_tokens": 50}, "beyond its P90"),
    ],
)
def test_the_reason_names_what_counts(given: dict[str, Any], words: str) -> None:
    assert words in place_reason(an_entry(**given))
