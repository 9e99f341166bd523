"""The messages between the gateway and a planning process: MessagePack, one each way.

The token ids of new lines, and the page hashes of queued ones, come in files whose descriptors the
process inherits.
"""

from typing import Final

import numpy as np
from msgspec import Struct, msgpack

from gateway.jobs.planning.plan import JobPlan
from gateway.jobs.planning.sharing_report import SharingReport
from gateway.jobs.prefix_groups import PrefixGroups
from gateway.jobs.prompts import Ints

TOKENS: Final[np.dtype[np.uint32]] = np.dtype("<u4")
HASHES: Final[np.dtype[np.uint64]] = np.dtype("<u8")
LENGTHS: Final = np.dtype("<u4")
EXPECTED: Final = np.dtype("<f4")
INTS: Final = np.dtype("<i4")


class PlanRequest(Struct, frozen=True):
    """What to plan: of each line the tokens of its prompt and the `expected` ones of its answer.

    `lengths` are those of the new lines' prompts, `queued_lengths` those of the queued ones', which
    have `queued_pages` each. The process fails if it needs more than `memory_bytes`, the files
    apart.
    """

    lengths: bytes
    queued_lengths: bytes
    queued_pages: bytes
    opened: list[str]
    expected: bytes
    page_tokens: int
    salt: str
    memory_bytes: int


class PlanReply(Struct, frozen=True):
    """A `JobPlan`, or the `error` because of which there is none."""

    group_of: bytes = b""
    prefix_tokens: bytes = b""
    parent: bytes = b""
    ranks: bytes = b""
    ids: list[str] = []
    report: SharingReport | None = None
    error: str | None = None

    @classmethod
    def of(cls, plan: JobPlan) -> "PlanReply":
        """The reply with a plan."""
        groups = plan.groups
        return cls(
            group_of=_packed(groups.group_of),
            prefix_tokens=_packed(groups.prefix_tokens),
            parent=_packed(groups.parent),
            ranks=_packed(plan.ranks),
            ids=plan.ids,
            report=plan.report,
        )

    def plan(self) -> JobPlan:
        """The plan. `error` must be None."""
        assert self.report is not None
        groups = PrefixGroups(
            _unpacked(self.group_of), _unpacked(self.prefix_tokens), _unpacked(self.parent)
        )
        return JobPlan(groups, self.ids, _unpacked(self.ranks), self.report)


def _packed(values: Ints) -> bytes:
    return values.astype(INTS).tobytes()


def _unpacked(content: bytes) -> Ints:
    return np.frombuffer(content, INTS).astype(np.int64)


encode: Final = msgpack.encode
decode_request: Final = msgpack.Decoder(PlanRequest).decode
decode_reply: Final = msgpack.Decoder(PlanReply).decode
