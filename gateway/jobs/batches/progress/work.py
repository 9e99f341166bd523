"""The work of a line, in which the progress of a job is measured."""

from typing import Final

# A prompt token's, in tokens of an answer. Engines with 32 sequences of 300 tokens take between a
# tenth and a third, by their measured step costs; what this misses is in the calibration of bands.
PROMPT_WORK: Final = 0.15


def work_of(predicted_tokens: float, own_prompt_tokens: float) -> float:
    """Of a line, or of the sums of several; `own`: without the prefixes that lines share."""
    return predicted_tokens + PROMPT_WORK * own_prompt_tokens
