from typing import Any

from gateway.cli.admin.scorecards import verdict


def a_version(**metrics: Any) -> dict[str, Any]:
    return {"id": "v1", "metrics": {"activated": False, "accepted": False, **metrics}}


def test_an_accepted_version_is_active_or_kept_as_asked() -> None:
    assert verdict(a_version(accepted=True, activated=True)) == "accepted: version v1 is active"
    assert "as --keep asks" in verdict(a_version(accepted=True))


def test_a_refused_version_says_which_comparisons_failed_and_by_how_much() -> None:
    failures = [
        {"against": "served", "measure": "pinball", "new": 0.239, "other": 0.222, "allowance": 0.0},
        {"against": "active", "measure": "tau", "new": 0.316, "other": 0.337, "allowance": 0.012},
    ]
    assert verdict(a_version(failures=failures)) == (
        "not accepted: pinball loss 0.239 where what was served then has 0.222 (+0.017) and "
        "tau 0.316 where the active version before has 0.337 (-0.021, 0.012 of it is allowed); "
        "version v1 is stored and inactive"
    )
