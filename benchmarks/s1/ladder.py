"""The rungs of the ladder, the predictors they get, and the paper's sizes."""

from typing import Final

from gateway.scheduling.policy import PolicyName

FIXED: Final[PolicyName] = "fixed"
MAGNUS: Final[PolicyName] = "magnus"
OURS: Final[PolicyName] = "lmaas"
LOCKSTEP: Final[tuple[PolicyName, ...]] = (FIXED, "fixed-predicted", "magnus-fcfs", MAGNUS)
CONTINUOUS: Final[tuple[PolicyName, ...]] = ("conservative-continuous", OURS)
RUNGS: Final = (*LOCKSTEP, *CONTINUOUS)
UNPREDICTED: Final = (FIXED, "conservative-continuous")  # they ignore predicted lengths

NO_PREDICTOR: Final = "none"
OUR_PREDICTOR: Final = "ours"
PUBLISHED_PREDICTOR: Final = "Magnus"  # as published: one number for each request
ORACLE_PREDICTOR: Final = "oracle"
PREDICTORS: Final = (OUR_PREDICTOR, PUBLISHED_PREDICTOR, ORACLE_PREDICTOR)

FIXED_BATCH: Final = 7  # rows of the paper's batches of fixed size
MAX_PROMPT: Final = 1_024  # L_max
MAX_ANSWER: Final = 1_024  # G_max
"""A server that knows no lengths keeps memory for L_max + G_max tokens in each row."""

REPLAY: Final = "replay"
LIVE: Final = "live"
PARTS: Final = (REPLAY, LIVE)
LOADS: Final = (0.9, 1.0, 1.1)  # of `fixed`'s saturated rate: where responses are compared
