"""A prediction request and its prediction."""

from typing import Final, Literal, TypeAlias, get_args
from uuid import UUID, uuid5

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.quantiles import MEDIAN, P90

__all__ = [
    "FORMS",
    "FREE",
    "IMPORTED",
    "SOURCES",
    "Embeddings",
    "Form",
    "Prediction",
    "PredictionRequest",
    "Stage",
    "known_form",
    "stratum",
]

SOURCES: Final = ("model", "app", "tenant", "global", "prior")
"""Where a prediction comes from: a trained version, the length history of the app, of the tenant or
of all apps, or the prior where no length is known."""

SOURCE_LABELS: Final = (*SOURCES, "model+embeddings")
"""The sources in metrics and headers, where the model counts by what it has read."""

Stage: TypeAlias = Literal["text", "embeddings"]
"""What a version's prediction has read: the text vectors, which take milliseconds, or the sentence
embeddings, too, which come later."""

Form: TypeAlias = Literal["free", "json", "tool"]
"""The form of an answer: any text, text that a schema or another grammar limits, or calls that the
request requires."""

FORMS: Final[tuple[Form, ...]] = get_args(Form)
FREE: Final[Form] = "free"

IMPORTED: Final = "imported"
"""The source of rows from imported logs, whose lengths nothing predicted."""


def stratum(app: UUID, form: Form) -> UUID:
    """What an app's answers of one form are learned under: lengths differ as between apps.

    For free answers it is the app's own id, as it was for all in earlier releases.
    """
    return app if form == FREE else uuid5(app, form)


def known_form(recorded: str | None) -> Form:
    """The form of a record; free where it has none, or one of a later release."""
    return next((form for form in FORMS if form == recorded), FREE)


class PredictionRequest(Struct, frozen=True, kw_only=True):
    """A request whose generation length is to be predicted; `batch` for a line of a batch job."""

    tenant: UUID
    app: UUID
    end_user: str | None
    instruction: str
    user_input: str
    user_input_tokens: int
    prompt_tokens: int
    max_tokens: int
    temperature: float
    top_p: float
    batch: bool = False
    form: Form = FREE

    @property
    def stratum(self) -> UUID:
        """What its answer is learned under."""
        return stratum(self.app, self.form)


class Embeddings(Struct):
    """Vectors of a request's texts, as float16 bytes; computed asynchronously: None until then.

    `text` is the text vector of the user input; `instruction` and `user_input` are sentence
    embeddings, by the model with the id `embedder`.
    """

    text: bytes | None = None
    instruction: bytes | None = None
    user_input: bytes | None = None
    embedder: str | None = None


class Prediction(Struct, frozen=True, kw_only=True):
    """Quantiles of the generation length in tokens at `LEVELS`, ascending, and its mean.

    All lie within 1 … max_tokens.

    `source` is one of `SOURCES`; `predictor` is the version's id and `stage` what it has read, both
    None without one; `first_scored` are the ln quantiles that it predicted before it had read
    embeddings, as float32 bytes. Features and embeddings are stored with the outcome for training;
    embeddings may arrive later.
    """

    quantiles: tuple[float, float, float, float, float, float]
    mean: float
    source: str
    predictor: UUID | None
    feature_version: int
    features: bytes
    instruction_hash: bytes
    embeddings: Embeddings = field(default_factory=Embeddings)
    stage: Stage | None = None
    first_scored: bytes | None = None

    @property
    def label(self) -> str:
        """The source, with what the model has read: `model`, or `model+embeddings`."""
        return f"{self.source}+{self.stage}" if self.stage == "embeddings" else self.source

    def at_least(self, tokens: int) -> "Prediction":
        """The prediction for an answer that has at least this many tokens."""
        if tokens <= self.quantiles[0]:
            return self
        least = float(tokens)
        first, *others = (max(each, least) for each in self.quantiles)
        return replace(self, quantiles=(first, *others), mean=max(self.mean, least))

    @property
    def median(self) -> float:
        """Used for ordering, WMA (Magnus's wasted memory accesses) and serving time."""
        return self.quantiles[MEDIAN]

    @property
    def upper(self) -> float:
        """The 0.9 quantile, used for memory reservations."""
        return self.quantiles[P90]
