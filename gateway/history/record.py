"""What is remembered of a request. The spool keeps it as JSON, Postgres as a row."""

from datetime import datetime
from typing import Final
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from gateway.quantiles import MEDIAN

HARD_TOKENS: Final = 10.0
HARD_SHARE: Final = 0.1  # of the length
KEPT_NOTHING: Final = 0  # the feature version of a record without features


class Record(Struct, frozen=True, kw_only=True):
    """A finished request; the fields are the columns of `models.record.RequestRecord`.

    Durations are seconds, from its arrival unless the name says otherwise. What has a default is
    not in what the release before left in its spool.

    `policy_order` is `policy`, or `arrival` where it fell back on that. `queue_ahead` requests
    waited when it came, `passed_by` came later and started before it. `expected_start_s` and
    `expected_finish_s` are as told at its arrival. `kv_free_pages` are those at its dispatch.
    `gave_up` tells why it never started: `deadline` or `queue_time`.

    `gateway_id` names one run of a gateway.

    `features` are float32 bytes, embeddings float16 bytes.
    `instruction_embedding` is kept apart, once for each instruction.
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

    @property
    def hard(self) -> bool:
        """Whether the median that was served missed by more than 10 tokens and 10 %.

        Of a length that was cut off it is known only where it came out longer.
        """
        missed = self.generation_tokens - self.quantiles[MEDIAN]
        known = missed if self.censored else abs(missed)
        return known > max(HARD_TOKENS, HARD_SHARE * self.generation_tokens)

    def unlearned(self) -> "Record":
        """The record with its usage, and nothing that could be learned from or names a user."""
        return replace(
            self,
            end_user=None,
            feature_version=KEPT_NOTHING,
            features=b"",
            instruction_hash=b"",
            instruction_embedding=None,
            embedding=None,
        )
