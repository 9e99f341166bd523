import numpy as np
import pytest

from gateway.prediction.model import text_kernel as kernels
from gateway.prediction.model.text_kernel import SHARPNESS, AppKernel, fit_kernel, gram

RIDGE, ROWS = 0.3, 60


@pytest.fixture
def one_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "RIDGES", (RIDGE,))


def some_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    points = random.normal(0, 0.4, (ROWS, 5)).astype(np.float32)
    target = np.sin(3 * points[:, 0].astype(float)) + random.normal(0, 0.1, ROWS)
    return points, target, random.choice([0.5, 1.0, 3.0], ROWS)


@pytest.mark.usefixtures("one_ridge")
def test_rows_are_told_of_as_if_each_had_been_left_out() -> None:
    points, target, weights = some_rows()
    kernel, told = fit_kernel(points, target, weights, np.random.default_rng(0))
    own = kernel.points.array()
    for row in range(ROWS):
        rest = np.arange(ROWS) != row
        matrix = gram(own[rest], own[rest]) + np.diag(RIDGE / weights[rest])
        near = gram(own[[row]], own[rest])
        ridge = kernel.mean + near @ np.linalg.solve(matrix, target[rest] - kernel.mean)
        assert told[row, 0] == pytest.approx(float(ridge[0]), abs=1e-3)
        share = near[0] ** SHARPNESS / (near[0] ** SHARPNESS).sum()
        mean = share @ target[rest]
        assert told[row, 1] == pytest.approx(mean, abs=1e-3)
        difference = np.sqrt(share @ (target[rest] - mean) ** 2)
        assert told[row, 2] == pytest.approx(difference, abs=1e-2)


@pytest.mark.usefixtures("one_ridge")
def test_serving_tells_what_the_formula_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "BLOCK", 7)
    points, target, weights = some_rows()
    kernel, _ = fit_kernel(points, target, weights, np.random.default_rng(0))
    asked = np.random.default_rng(9).normal(0, 0.4, (4, 5)).astype(np.float32)
    told = AppKernel(kernel).tell(asked)
    near = gram(asked, kernel.points.array())
    expected = kernel.mean + near @ kernel.weights.array()[0]
    np.testing.assert_allclose(told[:, 0], expected, atol=1e-4)
    assert abs(told[:, 0] - np.sin(3 * asked[:, 0])).mean() < 0.25


def test_a_text_that_is_missing_is_told_nothing_of() -> None:
    points, target, weights = some_rows()
    kernel, _ = fit_kernel(points, target, weights, np.random.default_rng(0))
    asked = np.vstack((points[:1], np.full((1, 5), np.nan, dtype=np.float32)))
    told = AppKernel(kernel).tell(asked)
    assert told[0].any()
    assert not told[1].any()


def test_rows_beyond_the_most_are_told_of_as_when_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MOST_POINTS", 40)
    points, target, weights = some_rows()
    kernel, told = fit_kernel(points, target, weights, np.random.default_rng(0))
    assert kernel.points.multiples().shape == (40, 5)
    served = AppKernel(kernel).tell(points)
    assert np.isclose(told, served, atol=1e-5).all(axis=1).sum() == ROWS - 40
