"""The database's tables, one file per aggregate."""

from models.base import Base
from models.predictor import Predictor, TrainingRun
from models.record import Instruction, RequestRecord
from models.tenant import ApiKey, App, Tenant

__all__ = [
    "ApiKey",
    "App",
    "Base",
    "Instruction",
    "Predictor",
    "RequestRecord",
    "Tenant",
    "TrainingRun",
]
