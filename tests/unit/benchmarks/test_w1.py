"""How W1 judges estimates."""

import numpy as np
import pytest

from benchmarks.w1.judgement import COUNTED, OURS, RECENT, Judgement, Wait, judge
from benchmarks.w1.live_run import Retries
from gateway.scheduling.waits.bands import WaitBand


def test_a_judgement_counts_what_is_inside_and_takes_medians() -> None:
    bands = [WaitBand(1.0, 2.0, 3.0), WaitBand(1.0, 2.0, 5.0), WaitBand(0.0, 1.0, 2.0)]
    found = Judgement.of(bands, [2.5, 6.0, 1.0])
    assert (found.waits, found.width_s, found.error_s) == (3, 2.0, 0.5)
    assert found.inside == pytest.approx(2 / 3)


def test_bands_are_compared_where_they_hold_the_same_share() -> None:
    rng = np.random.default_rng(3)
    waited_s = rng.uniform(0, 20, 1_000).tolist()
    narrow, wide = ([WaitBand(10 - w, 10.0, 10 + w)] * 1_000 for w in (1.0, 9.0))
    found = [Judgement.of(bands, waited_s) for bands in (narrow, wide)]
    assert found[0].inside < 0.2
    assert found[1].inside > 0.8
    for each in found:
        assert each.even_width_s == pytest.approx(16, rel=0.05)  # 80 % of 20 s


def test_a_queue_in_order_of_arrival_is_known_by_its_count() -> None:
    """One starts each second and one arrives each second: ten always wait."""
    waits = [Wait(float(n), WaitBand(9.5, 10.0, 10.5), 10.0) for n in range(400)]
    judged = judge(waits, [float(n) for n in range(410)])
    assert {name: each.inside for name, each in judged.items()}[OURS] == 1.0
    assert judged[OURS].error_s == 0.0
    assert judged[COUNTED].error_s < 1.5
    assert judged[RECENT].error_s == pytest.approx(0.0, abs=0.3)


def test_estimates_know_no_wait_before_its_end() -> None:
    rng = np.random.default_rng(5)
    waits = [Wait(n / 10, WaitBand(0, 1, 2), float(rng.exponential(5))) for n in range(300)]
    starts = [each.arrived_s + each.waited_s for each in waits]
    longer = [*waits[:-1], Wait(waits[-1].arrived_s, waits[-1].band, 500.0)]
    assert judge(waits, starts)[RECENT].width_s == judge(longer, starts)[RECENT].width_s


def test_few_refusals_make_no_share() -> None:
    assert Retries(0, 0).share is None
    assert Retries(1, 1).share is None
    assert Retries(40, 30).share == 0.75
