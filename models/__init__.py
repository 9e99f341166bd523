"""The database's tables, one file per aggregate."""

from models.admin_key import ScopedKey
from models.audit import AuditEntry
from models.base import Base
from models.batch import Batch, BatchLine, BatchWorker
from models.engine_cost import EngineCost
from models.erasure import Erasure, TenancyVersion
from models.file import FileChunk, StoredFile
from models.limit import LimitAccount, LimitLease, StoredLimit
from models.predictor import Predictor, TrainingRun, TrainingSchedule
from models.record import Instruction, RequestRecord
from models.release import CompatibleRelease
from models.tenant import ApiKey, App, Tenant
from models.usage import NO_PRICE, KeyUsageDay, Price, UsageDay

__all__ = [
    "NO_PRICE",
    "ApiKey",
    "App",
    "AuditEntry",
    "Base",
    "Batch",
    "BatchLine",
    "BatchWorker",
    "CompatibleRelease",
    "EngineCost",
    "Erasure",
    "FileChunk",
    "Instruction",
    "KeyUsageDay",
    "LimitAccount",
    "LimitLease",
    "Predictor",
    "Price",
    "RequestRecord",
    "ScopedKey",
    "StoredFile",
    "StoredLimit",
    "TenancyVersion",
    "Tenant",
    "TrainingRun",
    "TrainingSchedule",
    "UsageDay",
]
