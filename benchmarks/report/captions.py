"""A sentence for each picture of the report page, by the name of its file.

Of other pictures, the text that stands for them in benchmarks/README.md is used.
"""

from typing import Final

CAPTIONS: Final = {
    "S2-mean": "Mean response time over FCFS's, by load: below 1 is shorter.",
    "S2-p99": "The 99th percentile over FCFS's, by load: what order costs the slowest.",
    "S2-deciles": "Response times by length of the answer: short answers gain, long ones wait.",
    "S3-reserved": "Sequences in memory and tokens a second, by what is reserved for an answer.",
    "P1-words-lengths": "Predicted medians against the actual lengths, app by app.",
    "P1-words-errors": "Errors of all predictors, app by app.",
    "P1-words-coverage": "Share of answers within P90, and reserved over used tokens, by app.",
    "P1-words-midflight": "Error of the remaining length while an answer is being written.",
    "P1-bpe-lengths": "The same, with lengths in tokens of a tokenizer.",
    "P1-bpe-errors": "Errors of all predictors, in tokens of a tokenizer.",
    "P1-bpe-coverage": "Coverage and reserved over used, in tokens of a tokenizer.",
    "P1-bpe-midflight": "Error of the remaining length, in tokens of a tokenizer.",
    "P1-own-lengths": "Predicted medians against the lengths of SmolLM2's own answers.",
    "P1-own-errors": "Errors of all predictors on SmolLM2's own answers, app by app.",
    "P1-own-coverage": "Coverage and reserved over used tokens, on SmolLM2's own answers.",
    "P1-own-midflight": "Error of the remaining length, on SmolLM2's own answers.",
    "S1-throughput": "Requests a second with a backlog, by rung and predictor.",
    "S1-response": "Response times by rung, at loads relative to the fixed batch's saturated rate.",
    "S1-live": "Valid tokens a modelled second of each rung, live.",
    "S2-live-ratios": "Mean and p99 of the default policy over FCFS's, live and in replay.",
    "S3-live-reservations": "Sequences in memory, tokens a second and KV use, live.",
    "learning": (
        "Error, coverage less the right one, mean response over FCFS's, by 100 requests; dotted "
        "lines: a version goes live; solid line: the mix changes."
    ),
    "E1-tokens": "Output tokens a second of each engine, the median of the rounds.",
    "E4-tokens": "Output tokens a second by number of clients.",
}
