import numpy as np

from gateway.prediction.model.pca import compress, fit_axes


def test_axes_keep_what_varies() -> None:
    random = np.random.default_rng(1)
    plane = random.normal(size=(200, 2)).astype(np.float32)
    vectors = plane @ random.normal(size=(2, 12)).astype(np.float32)
    axes = fit_axes(vectors, 8)
    compressed = compress(vectors, axes)
    assert compressed.shape == (200, 2)
    lost = vectors - vectors.mean(axis=0) - compressed @ axes.basis.array().T
    assert abs(lost).max() < 1e-4


def test_few_rows_give_few_axes_and_none_give_none() -> None:
    vectors = np.random.default_rng(1).normal(size=(35, 12)).astype(np.float32)
    assert fit_axes(vectors, 8, rows_per_dim=10).basis.columns == 3
    assert fit_axes(vectors[:1], 8, rows_per_dim=1).basis.columns == 0
    missing = np.full((5, 12), np.nan, dtype=np.float32)
    assert compress(vectors, fit_axes(missing, 8)).shape == (35, 0)


def test_missing_embedding_stays_missing() -> None:
    vectors = np.random.default_rng(1).normal(size=(50, 12)).astype(np.float32)
    vectors[7] = np.nan
    compressed = compress(vectors, fit_axes(vectors, 4))
    assert np.isnan(compressed[7]).all()
    assert np.isfinite(np.delete(compressed, 7, axis=0)).all()
