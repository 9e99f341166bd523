"""What a stage ends in: LightGBM models of the quantiles and of the mean of what is left.

They count against the line by shares that are chosen on rows left out of the fit (`text_shares`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.expectation import expected_tokens
from gateway.prediction.model.app_lines import (
    impute_censored,
    leverages,
    line_levels,
    predict_lines,
    rows_by_app,
)
from gateway.prediction.model.artefact import AppLine, FitSettings
from gateway.prediction.model.text_shares import (
    SURENESS,
    blend,
    choose_shares,
    share_losses,
    shares_of,
)
from gateway.prediction.model.trees import (
    LeftOut,
    Parts,
    Table,
    Targets,
    cross_fit,
    fit_mean,
    fit_trees,
    read_trees,
)
from gateway.quantiles import Bools, Floats

IMPUTATION_DRAWS: Final = 5  # imputed values per censored row
MEAN_ROUNDS: Final = 120
MEAN_SHAPE: Final = {"num_leaves": 31, "min_data_in_leaf": 20}
MAX_LOG_LENGTH: Final = 30.0  # above any answer; prevents overflow


class PredictedLengths(NamedTuple):
    """For n requests: quantiles of ln tokens at `LEVELS`, (n, len(LEVELS)), and mean tokens, (n,).

    Quantiles ascend within a row; they are neither capped nor calibrated.
    """

    quantiles: Floats
    mean: Floats


@dataclass(frozen=True)
class LinePrediction:
    """What the lines predict for n requests of `apps`: centre and spread of log(1 + tokens), (n,).

    `levels` (n, len(LEVELS)) are the quantiles around the centre, in spreads.
    """

    apps: Sequence[UUID]
    centre: Floats
    spread: Floats
    levels: Floats

    @classmethod
    def of(
        cls, apps: Sequence[UUID], log_uil: Floats, pooled: AppLine, lines: dict[UUID, AppLine]
    ) -> "LinePrediction":
        """The prediction of the lines for log(1 + user input length), (n,)."""
        centre, spread = predict_lines(apps, log_uil, pooled, lines)
        return cls(apps, centre, spread, line_levels(apps, pooled, lines))

    def rows(self, which: NDArray[np.intp]) -> "LinePrediction":
        """That of a subset of the requests."""
        apps = [self.apps[row] for row in which.tolist()]
        return LinePrediction(apps, self.centre[which], self.spread[which], self.levels[which])


@dataclass(frozen=True, kw_only=True)
class ScaledLengths:
    """The lengths of n requests around their lines, in spreads, (n,).

    `expected` has the expected value where `scaled` is censored. `moved` is how far the line of a
    request would be from it without it.
    """

    line: LinePrediction
    scaled: Floats
    expected: Floats
    moved: Floats
    censored: Bools
    weights: Floats

    @classmethod
    def of(
        cls,
        line: LinePrediction,
        log_uil: Floats,
        log_lengths: Floats,
        censored: Bools,
        weights: Floats,
    ) -> "ScaledLengths":
        """From log(1 + tokens), (n,)."""
        scaled = (log_lengths - line.centre) / line.spread
        expected = impute_censored(scaled, censored, draws=1)[:, 0]
        leverage = leverages(log_uil, rows_by_app(line.apps), weights)
        return cls(
            line=line,
            scaled=scaled,
            expected=expected,
            moved=expected * leverage / (1 - leverage),
            censored=censored,
            weights=weights,
        )

    @property
    def expected_log(self) -> Floats:
        """Log(1 + tokens), expected where censored."""
        return np.asarray(self.line.centre + self.line.spread * self.expected)

    def rows(self, which: NDArray[np.intp]) -> "ScaledLengths":
        """Those of a subset of the requests."""
        return ScaledLengths(
            line=self.line.rows(which),
            scaled=self.scaled[which],
            expected=self.expected[which],
            moved=self.moved[which],
            censored=self.censored[which],
            weights=self.weights[which],
        )

    def shares(
        self, earlier: Floats, later: Floats, lengths: Floats, *, sureness: float = SURENESS
    ) -> tuple[float, dict[UUID, float]]:
        """What a later stage counts for, in all apps together and in each: `choose_shares`.

        By quantiles (n, len(LEVELS)) of both stages and `lengths` (n, draws), in spreads.
        """
        losses = self.line.spread[:, None] * share_losses(earlier, later, lengths)
        return choose_shares(losses, self.weights, rows_by_app(self.line.apps), sureness=sureness)


class LeftOutLengths(NamedTuple):
    """What a fit predicts of `rows` (k,) that were left out of it, and what their lengths were.

    `quantiles` (k, len(LEVELS)) and `lengths` (k, draws), equally likely, are in spreads of the
    row's line.
    """

    rows: NDArray[np.intp]
    quantiles: Floats
    lengths: Floats


class FittedHeads(NamedTuple):
    """LightGBM texts: trees per level and of the mean; what the fit chose, and by which rows.

    Without rows that were left out, where the settings were given, `left_out` is None.
    """

    trees: list[str]
    mean: str
    settings: FitSettings
    left_out: LeftOutLengths | None


def fit_heads(
    table: Table,
    lengths: ScaledLengths,
    kernel: Floats,
    settings: FitSettings | None,
    parts: Parts,
    *,
    threads: int,
) -> FittedHeads:
    """Fit on n rows (n, d); `kernel` (n,) is what the kernel predicts, in spreads.

    A censored row enters the quantiles as IMPUTATION_DRAWS rows with imputed lengths
    (`app_lines.impute_censored`). Without `settings` they are chosen by `parts` of the rows, each
    left out of a fit in turn.
    """
    censored, weights = lengths.censored, lengths.weights
    imputed = impute_censored(lengths.scaled - kernel, censored, draws=IMPUTATION_DRAWS)
    targets = _tree_targets(imputed, censored, weights)
    left_out = None
    if settings is None:
        found = cross_fit(table, targets, parts, threads=threads)
        settings, left_out = _settings(found, lengths, kernel, imputed)
    by_kernel = lengths.line.centre + lengths.line.spread * kernel
    mean_residuals = np.expm1(lengths.expected_log) - np.expm1(by_kernel)
    trees = fit_trees(table, targets, settings.rounds, threads=threads)
    mean = fit_mean(table, mean_residuals, weights, MEAN_ROUNDS, threads=threads, **MEAN_SHAPE)
    return FittedHeads(trees, mean, settings, left_out)


def _tree_targets(imputed: Floats, censored: Bools, weights: Floats) -> Targets:
    """Natural rows once, censored ones with each of their imputed targets (n, draws)."""
    natural, cut_off = np.flatnonzero(~censored), np.flatnonzero(censored)
    draws = imputed.shape[1]
    return Targets(
        requests=np.concatenate((natural, np.repeat(cut_off, draws))),
        target=np.concatenate((imputed[natural, 0], imputed[cut_off].ravel())),
        weights=np.concatenate((weights[natural], np.repeat(weights[cut_off] / draws, draws))),
    )


def _settings(
    left_out: LeftOut, lengths: ScaledLengths, kernel: Floats, imputed: Floats
) -> tuple[FitSettings, LeftOutLengths]:
    """The shares of the text parts, chosen on the k rows that were left out; and those rows."""
    rows = left_out.rows
    own, kernel = lengths.rows(rows), kernel[rows]
    # The targets are residuals of the kernel; all are as far from a line without the row.
    targets = imputed[rows] + (kernel + own.moved)[:, None]
    full = kernel[:, None] + left_out.quantiles
    share, shares = own.shares(own.line.levels, full, targets)
    settings = FitSettings(left_out.rounds, share, shares)
    blended = blend(own.line.levels, full, shares_of(own.line.apps, shares, share))
    return settings, LeftOutLengths(rows, blended, targets)


class Heads:
    """Fitted trees, ready to predict. PredictorRefused if they cannot be read."""

    def __init__(self, trees: list[str], mean: str, settings: FitSettings | None) -> None:
        *self._quantiles, self._mean = read_trees([*trees, mean])
        self._settings = settings

    def predict(self, table: Table, line: LinePrediction, kernel: Floats) -> PredictedLengths:
        """The lengths of n rows (n, d); `kernel` (n,) is what the kernel predicts, in spreads."""
        full = kernel[:, None] + np.stack([head.score(table) for head in self._quantiles], axis=1)
        shares = self._shares(line.apps)
        blended = blend(line.levels, full, shares)
        found = sorted_prediction(line.centre[:, None] + line.spread[:, None] * blended)
        by_kernel = np.minimum(line.centre + line.spread * kernel, MAX_LOG_LENGTH)
        mean = np.maximum(np.expm1(by_kernel) + self._mean.score(table), 1.0)
        return PredictedLengths(found.quantiles, found.mean + shares / 2 * (mean - found.mean))

    def _shares(self, apps: Sequence[UUID]) -> Floats:
        """What the text parts count for in n requests, (n,)."""
        settings = self._settings
        if settings is None:  # a version of an earlier release
            return np.ones(len(apps))
        return shares_of(apps, settings.shares, settings.share)


def sorted_prediction(quantiles: Floats) -> PredictedLengths:
    """From quantiles of log(1 + tokens): sorted, in ln tokens, with their mean."""
    # Sorting a row never increases its pinball loss (Chernozhukov et al. 2010).
    rising = from_log1p(np.sort(quantiles, axis=1))
    return PredictedLengths(rising, expected_tokens(np.exp(rising)))


def from_log1p(values: Floats) -> Floats:
    """Convert log(1 + tokens) to ln tokens, at least 0."""
    return np.log(np.maximum(np.expm1(np.minimum(values, MAX_LOG_LENGTH)), 1.0))
