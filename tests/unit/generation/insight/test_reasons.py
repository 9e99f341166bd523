"""The sentence that explains why a request waited."""

from typing import Any

import pytest

from gateway.generation.insight.reasons import WaitFacts, explain_wait
from gateway.history.requests import OvertakingCounts


def facts(**given: Any) -> WaitFacts:
    known = {"state": "ended", "started": True, "waited_s": 3.2, "queue_ahead": 12, "passed_by": 0}
    return WaitFacts(**{**known, **given})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"waited_s": 0.01, "queue_ahead": 0}, "It started at once."),
        ({}, "It waited 3.20 s: 12 requests waited when it came."),
        (
            {"queue_ahead": 1, "passed_by": 5, "passes": OvertakingCounts(1, 1, 3, 0)},
            (
                "It waited 3.20 s: 1 request waited when it came, and 5 that came later went first "
                "(1 of a more urgent tier, 1 in another tenant's turn, 3 with shorter answers)."
            ),
        ),
        (
            {"queue_ahead": 0},
            "It waited 3.20 s: nothing waited before it, and what ran left no room for it.",
        ),
        ({"queue_ahead": None, "passed_by": None}, "It waited 3.20 s."),
        (
            {"state": "waiting", "started": False, "waits_for_share": "user"},
            (
                "It has waited 3.20 s: 12 requests waited when it came; its user has had more than "
                "its share, and others of the app wait."
            ),
        ),
        (
            {"host_reason": "would_preempt"},
            (
                "It waited 3.20 s: 12 requests waited when it came; its keys and values are in "
                "host memory, as the device had no room for them next to those of others."
            ),
        ),
        (
            {"state": "waiting", "started": False, "host_reason": "does_not_fit"},
            (
                "It has waited 3.20 s: 12 requests waited when it came; its keys and values will "
                "be in host memory, as the device cannot hold them."
            ),
        ),
        (
            {"overdue": True, "preemptions": 2},
            (
                "It waited 3.20 s: 12 requests waited when it came; then it went first, being "
                "overdue; while it ran it was suspended 2 times because memory had run out."
            ),
        ),
        (
            {"policy_order": "arrival", "preemptions": 1, "waited_s": 0.0},
            "It started at once; while it ran it was suspended once because memory had run out.",
        ),
        (
            {"policy_order": "arrival"},
            "It waited 3.20 s: 12 requests waited when it came; the order was that of arrival.",
        ),
        (
            {"state": "waiting", "started": False, "passed_by": None},
            "It has waited 3.20 s: 12 requests waited when it came.",
        ),
        (
            {"started": False, "gave_up": "deadline"},
            (
                "It was given up after 3.20 s because its deadline could not be met any more: "
                "12 requests waited when it came."
            ),
        ),
        (
            {"started": False, "gave_up": "queue_time", "waited_s": 0.02},
            (
                "It was given up after 0.02 s because it had not started within the longest wait "
                "that was allowed."
            ),
        ),
        (
            {"started": False, "waited_s": 0.02},
            "It ended after 0.02 s without having started.",
        ),
    ],
)
def test_sentence_states_what_happened_and_why(given: dict[str, Any], sentence: str) -> None:
    assert explain_wait(facts(**given)) == sentence
