"""The bounds on batch jobs."""

from msgspec import Struct


class BatchLimits(Struct, frozen=True, kw_only=True):
    """The most lines of a job, open jobs of a tenant, and bytes and JSON values of a line."""

    lines: int = 100_000
    tenant_batches: int = 100
    line_bytes: int = 1 << 20
    line_values: int = 20_000
