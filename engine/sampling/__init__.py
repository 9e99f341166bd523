"""Samples the next token of every sequence of a step.

`prepare` runs on the host before the step; the masks of `StepGrammars` are filled meanwhile;
`sample` and `copy_to_host` are enqueued on the device behind the forward pass without waiting for
it; `read_tokens` waits for the result.
"""

from engine.sampling.batch import SamplingBatch, prepare
from engine.sampling.grammar_masks import GrammarRow, StepGrammars
from engine.sampling.output import PendingOutput, SampledToken, copy_to_host, read_tokens
from engine.sampling.params import GREEDY, SamplingParams, is_greedy, needs_history
from engine.sampling.sampler import SamplerOutput, sample

__all__ = [
    "GREEDY",
    "GrammarRow",
    "PendingOutput",
    "SampledToken",
    "SamplerOutput",
    "SamplingBatch",
    "SamplingParams",
    "StepGrammars",
    "copy_to_host",
    "is_greedy",
    "needs_history",
    "prepare",
    "read_tokens",
    "sample",
]
