"""Fields that several bodies have, with bounds for the OpenAPI document; services check them."""

from datetime import datetime
from typing import Annotated, TypeAlias
from uuid import UUID

from msgspec import Meta, Struct

from gateway.tenancy.naming import (
    MAX_DEADLINE_S,
    MAX_INSTRUCTION_CHARACTERS,
    MAX_NAME_CHARACTERS,
    TIERS,
)
from gateway.tenancy.share import MAX_SHARE, MIN_SHARE

Name: TypeAlias = Annotated[
    str,
    Meta(
        description="printable characters, without spaces at either end",
        extra_json_schema={"minLength": 1, "maxLength": MAX_NAME_CHARACTERS},
    ),
]
Instruction: TypeAlias = Annotated[
    str, Meta(extra_json_schema={"maxLength": MAX_INSTRUCTION_CHARACTERS})
]
ShareWeight: TypeAlias = Annotated[
    float, Meta(extra_json_schema={"minimum": MIN_SHARE, "maximum": MAX_SHARE})
]
ServiceTiers: TypeAlias = Annotated[
    list[str], Meta(extra_json_schema={"minItems": 1, "items": {"enum": list(TIERS)}})
]
MinDeadline: TypeAlias = Annotated[
    float, Meta(extra_json_schema={"minimum": 0, "maximum": MAX_DEADLINE_S})
]


class DeletedAnswer(Struct, frozen=True):
    """A deleted tenant or app. Its name is free for another."""

    id: UUID
    name: str
    deleted_at: datetime
