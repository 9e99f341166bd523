"""The record of a request: JSON in the spool, a row in Postgres."""

from datetime import datetime
from typing import Final
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from gateway.quantiles import MEDIAN

MIN_HARD_ERROR_TOKENS: Final = 10.0
MIN_HARD_ERROR_SHARE: Final = 0.1  # of the length
BATCH_TIER: Final = "batch"  # service tier of lines of batch jobs
LOST: Final = "lost"  # finish reason of what a killed gateway was running
NO_FEATURES: Final = 0  # feature version of a record without features


class Record(Struct, frozen=True, kw_only=True):
    """A finished request; the fields are the columns of `models.record.RequestRecord`.

    Durations are seconds from its arrival, unless the name says otherwise. Fields with a default
    may be missing in the spool of an earlier release.

    `policy_order` is `policy`, or `arrival` if the policy fell back to order of arrival.
    `queue_ahead` requests waited when it arrived; `passed_by` arrived later and started earlier.
    `expected_start_s` and `expected_finish_s` are the estimates made at its arrival.
    `kv_free_pages` counts the free KV pages at its dispatch. `gave_up` is the bound for which it
    was shed before its start, `deadline` or `queue_time`. `gateway_id` identifies one run of a
    gateway. `first_id` is the id of the request's first choice, in the records of the others: they
    share its prompt. `cached_tokens` of the prompt were not computed; null where that is unknown.
    `form` is that of the answer: free, json or tool. The length of a `forced` answer follows from
    the request's parameters, not from its text, and teaches nothing.

    `features` and `first_scored` hold float32 bytes, the latter the ln quantiles that the version
    predicted before it had read embeddings. The vectors are float16 bytes: `embedding` is the text
    vector, `input_embedding` and `instruction_embedding` are the sentence embeddings that
    `embedder` made.
    The last is stored in a table of its own, once per instruction. `preempted_s` sums the times for
    which it was preempted.
    """

    arrived_at: datetime
    id: UUID
    tenant_id: UUID
    app_id: UUID
    api_key_id: UUID
    end_user: str | None
    model: str
    streamed: bool
    prompt_tokens: int
    user_input_tokens: int
    max_tokens: int
    temperature: float
    top_p: float
    quantiles: list[float]
    prediction_source: str
    predictor_id: UUID | None
    feature_version: int
    features: bytes
    instruction_hash: bytes
    instruction_embedding: bytes | None
    embedding: bytes | None
    generation_tokens: int
    finish_reason: str
    censored: bool
    policy: str
    batch_id: str | None
    batch_size: int | None
    preemptions: int
    queued_s: float | None
    first_token_s: float | None
    response_s: float
    service_tier: str | None = None
    deadline_s: float | None = None
    policy_order: str | None = None
    queue_ahead: int | None = None
    passed_by: int | None = None
    expected_start_s: float | None = None
    expected_finish_s: float | None = None
    response_ratio: float | None = None
    overdue: bool | None = None
    kv_free_pages: int | None = None
    gave_up: str | None = None
    gateway_id: UUID | None = None
    input_embedding: bytes | None = None
    embedder: str | None = None
    first_id: UUID | None = None
    cached_tokens: int | None = None
    first_scored: bytes | None = None
    form: str | None = None
    forced: bool | None = None
    preempted_s: float | None = None

    @property
    def batch(self) -> bool:
        """Whether it was a line of a batch job."""
        return self.service_tier == BATCH_TIER

    @property
    def hard(self) -> bool:
        """Whether the predicted median was off by more than 10 tokens and 10 % of the length.

        A censored length shows an error only if it exceeds the median.
        """
        missed = self.generation_tokens - self.quantiles[MEDIAN]
        known = missed if self.censored else abs(missed)
        return known > max(MIN_HARD_ERROR_TOKENS, MIN_HARD_ERROR_SHARE * self.generation_tokens)

    def unlearned(self) -> "Record":
        """The record with its usage only: no features, embeddings or end user."""
        return replace(self.without_features(), end_user=None)

    def without_features(self) -> "Record":
        """The record without features and embeddings: training does not read it."""
        return replace(
            self,
            feature_version=NO_FEATURES,
            features=b"",
            first_scored=None,
            instruction_hash=b"",
            instruction_embedding=None,
            embedding=None,
            input_embedding=None,
            embedder=None,
        )
