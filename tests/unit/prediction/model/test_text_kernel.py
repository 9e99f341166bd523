from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.prediction.model import text_kernel
from gateway.prediction.model.text_kernel import (
    NEIGHBOUR_POWER,
    AppKernel,
    fit_kernel,
    gram,
    product,
)

RIDGE, ROWS = 0.3, 60


@pytest.fixture
def one_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_kernel, "RIDGE_CANDIDATES", (RIDGE,))


def some_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    points = random.normal(0, 0.4, (ROWS, 5)).astype(np.float32)
    target = np.sin(3 * points[:, 0].astype(float)) + random.normal(0, 0.1, ROWS)
    return points, target, random.choice([0.5, 1.0, 3.0], ROWS)


@pytest.mark.parametrize("groups", [(), (2,), (1, 4)])
@pytest.mark.usefixtures("one_ridge")
def test_outputs_of_training_rows_are_leave_one_out(groups: tuple[int, ...]) -> None:
    points, target, weights = some_rows()
    kernel, outputs = fit_kernel(points, target, weights, np.random.default_rng(0), groups)
    assert np.isfinite(outputs).all()
    own = kernel.points.array()
    for row in range(ROWS):
        rest = np.arange(ROWS) != row
        matrix = gram(own[rest], own[rest], groups) + np.diag(RIDGE / weights[rest])
        similarity = gram(own[[row]], own[rest], groups)
        deviations = np.linalg.solve(matrix, target[rest] - kernel.mean)
        ridge = kernel.mean + product(similarity, deviations)
        assert outputs[row, 0] == pytest.approx(float(ridge[0]), abs=1e-3)
        share = similarity[0] ** NEIGHBOUR_POWER / (similarity[0] ** NEIGHBOUR_POWER).sum()
        mean = float(product(share, target[rest]))
        assert outputs[row, 1] == pytest.approx(mean, abs=1e-3)
        difference = np.sqrt(product(share, (target[rest] - mean) ** 2))
        assert outputs[row, 2] == pytest.approx(difference, abs=1e-2)


@pytest.mark.parametrize("groups", [(), (2,), (1, 4)])
@pytest.mark.usefixtures("one_ridge")
def test_serving_outputs_match_the_formula(
    monkeypatch: pytest.MonkeyPatch, groups: tuple[int, ...]
) -> None:
    monkeypatch.setattr(text_kernel, "BLOCK_POINTS", 7)
    points, target, weights = some_rows()
    kernel, _ = fit_kernel(points, target, weights, np.random.default_rng(0), groups)
    queries = np.random.default_rng(9).normal(0, 0.4, (4, 5)).astype(np.float32)
    outputs = AppKernel(kernel).predict(queries)
    similarity = gram(queries, kernel.points.array(), groups)
    expected = kernel.mean + product(similarity, kernel.weights.array()[0])
    assert np.isfinite(outputs).all()
    np.testing.assert_allclose(outputs[:, 0], expected, atol=1e-4)
    assert abs(outputs[:, 0] - np.sin(3 * queries[:, 0])).mean() < 0.25


@given(st.sets(st.integers(1, 4)), st.integers(0, 99))
def test_similarity_is_the_mean_of_a_gaussian_on_each_group(begins: set[int], seed: int) -> None:
    points = np.random.default_rng(seed).normal(0, 0.6, (7, 5)).astype(np.float32)
    found = gram(points[:3], points, tuple(sorted(begins)))
    ends = [0, *sorted(begins), 5]
    for row in range(3):
        for other in range(7):
            squares = (points[row].astype(float) - points[other]) ** 2
            own = [np.exp(-squares[a:b].sum()) for a, b in pairwise(ends)]
            assert found[row, other] == pytest.approx(np.mean(own), abs=1e-4)


def test_missing_text_has_zero_outputs() -> None:
    points, target, weights = some_rows()
    kernel, _ = fit_kernel(points, target, weights, np.random.default_rng(0))
    queries = np.vstack((points[:1], np.full((1, 5), np.nan, dtype=np.float32)))
    outputs = AppKernel(kernel).predict(queries)
    assert outputs[0].any()
    assert not outputs[1].any()


def test_rows_beyond_max_points_get_serving_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_kernel, "MAX_POINTS", 40)
    points, target, weights = some_rows()
    kernel, outputs = fit_kernel(points, target, weights, np.random.default_rng(0))
    assert kernel.points.multiples().shape == (40, 5)
    served = AppKernel(kernel).predict(points)
    assert np.isclose(outputs, served, atol=1e-5).all(axis=1).sum() == ROWS - 40
