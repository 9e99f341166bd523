import numpy as np
import pytest

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


@pytest.mark.usefixtures("one_ridge")
def test_outputs_of_training_rows_are_leave_one_out() -> None:
    points, target, weights = some_rows()
    kernel, outputs = fit_kernel(points, target, weights, np.random.default_rng(0))
    assert np.isfinite(outputs).all()
    own = kernel.points.array()
    for row in range(ROWS):
        rest = np.arange(ROWS) != row
        matrix = gram(own[rest], own[rest]) + np.diag(RIDGE / weights[rest])
        similarity = gram(own[[row]], own[rest])
        deviations = np.linalg.solve(matrix, target[rest] - kernel.mean)
        ridge = kernel.mean + product(similarity, deviations)
        assert outputs[row, 0] == pytest.approx(float(ridge[0]), abs=1e-3)
        share = similarity[0] ** NEIGHBOUR_POWER / (similarity[0] ** NEIGHBOUR_POWER).sum()
        mean = float(product(share, target[rest]))
        assert outputs[row, 1] == pytest.approx(mean, abs=1e-3)
        difference = np.sqrt(product(share, (target[rest] - mean) ** 2))
        assert outputs[row, 2] == pytest.approx(difference, abs=1e-2)


@pytest.mark.usefixtures("one_ridge")
def test_serving_outputs_match_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_kernel, "BLOCK_POINTS", 7)
    points, target, weights = some_rows()
    kernel, _ = fit_kernel(points, target, weights, np.random.default_rng(0))
    queries = np.random.default_rng(9).normal(0, 0.4, (4, 5)).astype(np.float32)
    outputs = AppKernel(kernel).predict(queries)
    similarity = gram(queries, kernel.points.array())
    expected = kernel.mean + product(similarity, kernel.weights.array()[0])
    assert np.isfinite(outputs).all()
    np.testing.assert_allclose(outputs[:, 0], expected, atol=1e-4)
    assert abs(outputs[:, 0] - np.sin(3 * queries[:, 0])).mean() < 0.25


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
