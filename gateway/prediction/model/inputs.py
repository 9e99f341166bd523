"""The inputs of the length model for n requests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.features.features import INPUTS, USER_INPUT_COLUMN, Vector
from gateway.prediction.messages import FORMS, FREE, Form, stratum
from gateway.quantiles import Bools, Floats

Codes = NDArray[np.int8]
"""The form of each of n requests, by its place in `FORMS`, (n,)."""


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """Columns over the same n requests; a missing vector is a row of NaN.

    features (n, ≥ len(INPUTS)) and text (n, TEXT_DIMS), both float32; `sentences` (n, d) are the
    embeddings of the user inputs; `instruction_of` (n,) indexes those of the k distinct
    `instructions` (k, d). `forms` None: all answers are free. `learned` are the forms that a
    version distinguishes from free text.
    """

    apps: list[UUID]
    features: NDArray[np.float32]
    instructions: NDArray[np.float32]
    instruction_of: NDArray[np.intp]
    text: NDArray[np.float32]
    sentences: NDArray[np.float32]
    forms: Codes | None = None
    learned: tuple[Form, ...] = ()

    def __len__(self) -> int:
        return len(self.apps)

    @property
    def request(self) -> NDArray[np.float32]:
        """The features that the model reads, (n, len(INPUTS))."""
        return self.features[:, : len(INPUTS)]

    @property
    def log_uil(self) -> Floats:
        """log(1 + user input length), (n,)."""
        return self.features[:, USER_INPUT_COLUMN].astype(np.float64)

    @property
    def strata(self) -> list[UUID]:
        """What each answer is learned under: its app, and if it is not free also its form."""
        return [
            stratum(app, FORMS[code])
            for app, code in zip(self.apps, self._codes.tolist(), strict=True)
        ]

    @property
    def form_columns(self) -> NDArray[np.float32]:
        """Whether the form of each answer is this one, for the learned ones, (n, k)."""
        codes = [FORMS.index(form) for form in self.learned]
        return np.asarray(self._codes[:, None] == np.array(codes, np.int8), np.float32)

    def common_forms(self, least: int) -> tuple[Form, ...]:
        """The forms other than free text of which there are at least `least` requests."""
        counts = np.bincount(self._codes, minlength=len(FORMS)).tolist()
        return tuple(
            form
            for form, count in zip(FORMS, counts, strict=True)
            if form != FREE and count >= least
        )

    def by_form(self, learned: Sequence[Form]) -> "ModelInputs":
        """As a version reads them that has learned these forms: each stratum is an app of its own.

        Answers of other forms count as free.
        """
        if self.forms is None and not learned:
            return self
        known = np.isin(self._codes, [FORMS.index(form) for form in learned])
        forms = np.where(known, self._codes, np.int8(FORMS.index(FREE)))
        inputs = replace(self, forms=forms, learned=tuple(learned))
        return replace(inputs, apps=inputs.strata)

    @property
    def _codes(self) -> Codes:
        return np.zeros(len(self), np.int8) if self.forms is None else self.forms

    @property
    def embedded(self) -> Bools:
        """Which requests have the embedding of their user input, (n,)."""
        return np.asarray(~np.isnan(self.sentences).any(axis=1))

    def rows(self, which: slice | NDArray[np.intp]) -> "ModelInputs":
        """A subset of the requests."""
        part = np.arange(len(self))[which]
        return ModelInputs(
            apps=[self.apps[row] for row in part.tolist()],
            features=self.features[part],
            instructions=self.instructions,
            instruction_of=self.instruction_of[part],
            text=self.text[part],
            sentences=self.sentences[part],
            forms=None if self.forms is None else self.forms[part],
            learned=self.learned,
        )


def form_codes(forms: Sequence[Form]) -> Codes:
    """The codes of n forms, (n,)."""
    return np.array([FORMS.index(form) for form in forms], np.int8)


def unpack_vector(stored: bytes | None, dims: int) -> Vector:
    """A vector stored as float16 bytes, (dims,) float32; NaN if it is None.

    ValueError if it has another size.
    """
    if stored is None:
        return np.full(dims, np.nan, dtype=np.float32)
    vector = np.frombuffer(stored, dtype=np.float16)
    if len(vector) != dims:
        raise ValueError(f"a vector of {len(vector)} numbers, {dims} expected")
    return vector.astype(np.float32)
