"""No source's band is sharper than its outcomes justify."""

from collections.abc import Callable
from uuid import UUID

import numpy as np
import pytest

from gateway.prediction.adaptation.adaptation import Adaptation, ScoredOutcome
from gateway.prediction.adaptation.source_bands import SourceBands
from gateway.prediction.features.length_history import (
    LengthHistory,
    LengthOutcome,
    prior_statistics,
)
from gateway.quantiles import LEVELS, P90

MAX_TOKENS = 4_000
TENANT = UUID(int=1_000_000)
Lengths = Callable[[np.random.Generator, int], np.ndarray]


def constant(_: np.random.Generator, rows: int) -> np.ndarray:
    return np.full(rows, 125.0)


def bimodal(random: np.random.Generator, rows: int) -> np.ndarray:
    centre = np.where(random.random(rows) < 0.5, 2.5, 5.5)
    return np.round(np.exp(centre + random.normal(0, 0.3, rows)))


def drifting(random: np.random.Generator, rows: int) -> np.ndarray:
    """Eight times as long at the end."""
    grown = np.log(8) * np.arange(rows) / rows
    return np.round(np.exp(4 + grown + random.normal(0, 0.5, rows)))


def served_by_history(lengths: np.ndarray, apps: int) -> tuple[np.ndarray, list[str]]:
    """What the history of the lengths before gives each, (n, len(LEVELS)), and by which source."""
    history, bands = LengthHistory(), SourceBands()
    served, sources = [], []
    for row, tokens in enumerate(lengths.astype(int).tolist()):
        app = UUID(int=row % apps)
        known = history.history(
            tenant=TENANT, app=app, end_user=None, max_tokens=MAX_TOKENS, now=float(row)
        )
        served.append(bands.serve(known.source, app, known.app.quantiles, MAX_TOKENS))
        sources.append(known.source)
        bands.learn(known.source, app, known.app.quantiles[-2:], tokens, censored=False)
        history.learn(LengthOutcome(TENANT, app, None, tokens, False, float(row)))
    return np.array(served), sources


def coverage(served: np.ndarray, lengths: np.ndarray) -> float:
    return float((lengths <= served[:, P90] * (1 + 1e-9)).mean())


@pytest.mark.parametrize(("rows", "seeds"), [(500, 5), (1_000, 2), (5_000, 1)])
@pytest.mark.parametrize("kind", [bimodal, drifting])
@pytest.mark.parametrize("source", ["app", "tenant"])
def test_p90_of_earlier_lengths_covers_nine_in_ten(
    kind: Lengths, rows: int, seeds: int, source: str
) -> None:
    apps = {"app": 1, "tenant": rows}[source]  # a new app with each request has only its tenant's
    found = []
    for seed in range(seeds):
        lengths = kind(np.random.default_rng(seed), rows)
        served, sources = served_by_history(lengths, apps)
        assert set(sources[5:]) == {source}
        found.append(coverage(served, lengths))
    assert 0.88 <= np.mean(found) <= 0.92


@pytest.mark.parametrize("rows", [500, 1_000, 5_000])
def test_p90_of_the_prior_covers_nine_in_ten(rows: int) -> None:
    lengths = bimodal(np.random.default_rng(1), rows)
    bands, prior = SourceBands(), prior_statistics(MAX_TOKENS).quantiles
    served = []
    for row, tokens in enumerate(lengths.astype(int).tolist()):
        served.append(bands.serve("prior", UUID(int=row), prior, MAX_TOKENS))
        bands.learn("prior", UUID(int=row), prior[-2:], tokens, censored=False)
    assert 0.88 <= coverage(np.array(served), lengths) <= 0.92


@pytest.mark.parametrize(("rows", "seeds"), [(500, 5), (1_000, 2), (5_000, 1)])
@pytest.mark.parametrize("kind", [bimodal, drifting])
def test_p90_of_a_version_covers_nine_in_ten(kind: Lengths, rows: int, seeds: int) -> None:
    app = UUID(int=1)
    found = []
    for seed in range(seeds):
        lengths = kind(np.random.default_rng(seed), rows)
        adaptation, served = Adaptation({app}), []
        raw = [4.0 + 0.2 * number for number in range(len(LEVELS))]  # too narrow
        for tokens in lengths.astype(int).tolist():
            served.append(adaptation.serve(app, 3.0, raw, MAX_TOKENS))
            adaptation.learn(ScoredOutcome.of(app, 3.0, raw, tokens, censored=False))
        found.append(coverage(np.array(served), lengths))
    assert 0.88 <= np.mean(found) <= 0.92


@pytest.mark.parametrize("rows", [500, 800, 5_000])
def test_equal_answers_do_not_make_a_band_of_no_width(rows: int) -> None:
    lengths = constant(np.random.default_rng(0), rows)
    served, _ = served_by_history(lengths, 1)
    assert (served[:, 0] < 125).all()
    assert (served[5:, P90] > 125).all()
    assert coverage(served, lengths) == 1.0
    widths = np.log(served[50:, P90] / served[50:, 0])
    assert widths[-1] < widths[0]  # outcomes make it narrower
    assert widths[-1] > 0.05


def test_sources_are_calibrated_apart() -> None:
    bands, app = SourceBands(), UUID(int=1)
    raw = [3.0] * len(LEVELS)
    for _ in range(60):
        bands.learn("app", app, raw[-2:], 20, censored=False)
        bands.learn("tenant", app, raw[-2:], 2_000, censored=False)
    assert bands.serve("app", app, raw, MAX_TOKENS)[P90] < 25
    assert bands.serve("tenant", app, raw, MAX_TOKENS)[P90] == pytest.approx(2_000)
