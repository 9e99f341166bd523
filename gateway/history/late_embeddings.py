"""Vectors of a request's texts that came after its record had been written."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import text

from gateway.history.audit import SpooledEntry
from gateway.history.record import Record

# Not of a row that was erased meanwhile, nor of a tenant that has opted out of learning.
ADD: Final = text("""
    UPDATE requests
    SET embedding = coalesce(late.text, requests.embedding),
        input_embedding = coalesce(late.user_input, requests.input_embedding),
        embedder = late.embedder
    FROM unnest(
        CAST(:arrived_at AS timestamptz[]), CAST(:id AS uuid[]), CAST(:embedder AS text[]),
        CAST(:text AS bytea[]), CAST(:user_input AS bytea[])
    ) AS late (arrived_at, id, embedder, text, user_input), tenants
    WHERE requests.arrived_at = late.arrived_at AND requests.id = late.id
      AND requests.feature_version > 0
      AND tenants.id = requests.tenant_id AND tenants.learning
    RETURNING requests.id, requests.instruction_hash
""")


class LateEmbeddings(Struct, frozen=True, kw_only=True, tag_field="kind", tag="late_embeddings"):
    """What a record lacks, under its key: float16 bytes as in `Record`; None adds nothing."""

    arrived_at: datetime
    id: UUID
    embedder: str
    text: bytes | None
    instruction: bytes | None
    user_input: bytes | None

    def added_to(self, record: Record) -> Record:
        """The record with these vectors."""
        return replace(
            record,
            embedder=self.embedder,
            embedding=self.text or record.embedding,
            instruction_embedding=self.instruction or record.instruction_embedding,
            input_embedding=self.user_input or record.input_embedding,
        )


SpoolLine: TypeAlias = Record | LateEmbeddings | SpooledEntry


def parameters(late: Sequence[LateEmbeddings]) -> dict[str, list[Any]]:
    """The parameters of `ADD`."""
    names = ("arrived_at", "id", "embedder", "text", "user_input")
    return {name: [getattr(each, name) for each in late] for name in names}


def merged(lines: Iterable[Record | LateEmbeddings]) -> tuple[list[Record], list[LateEmbeddings]]:
    """The records, with the vectors that came for them; and the vectors of earlier records."""
    records: dict[tuple[datetime, UUID], Record] = {}
    earlier: list[LateEmbeddings] = []
    for line in lines:
        key = line.arrived_at, line.id
        if isinstance(line, Record):
            records.setdefault(key, line)
        elif key in records:
            records[key] = line.added_to(records[key])
        else:
            earlier.append(line)
    return [*records.values()], earlier
