"""A task under every method."""

from collections.abc import Iterator, Sequence

import torch
from msgspec import Struct
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.i2.forced import SelectedAttention, forced_logits, read_prompt
from benchmarks.i2.memory import TextMemory
from benchmarks.i2.methods import FULL, Run, full_attention
from benchmarks.i2.selectors import Everything
from benchmarks.i2.texts import Task
from engine.running.loaded_model import LoadedModel


class Outcome(Struct, frozen=True):
    """A method on a task.

    `tokens` were judged: `nll` is their mean negative log likelihood, `kl` the mean divergence of
    full attention's distribution from the method's, `same` how many had the same likeliest token,
    `right` how many the text's own; `left` is the share of tokens that was attended to.
    """

    kind: str
    source: str
    context: int
    method: str
    share: float
    left: float
    tokens: int
    nll: float
    kl: float
    same: int
    right: int


def measure(model: LoadedModel, task: Task, runs: Sequence[Run]) -> Iterator[Outcome]:
    """Every method's outcome, full attention's first."""
    memory = read_prompt(model, task.ids, task.prompt, room=task.answer)
    ids, judged = task.ids, task.judged
    if task.answer:
        ids = [*ids, *_answer(model, memory, ids, task.answer, model.stop_ids)]
        judged = list(range(task.prompt + 1, len(ids)))
    rows = torch.tensor(judged) - task.prompt - 1  # the row before predicts a token
    expected = torch.tensor([ids[position] for position in judged])
    whole = None
    for run in (full_attention(), *runs):
        attention = SelectedAttention(memory, run.make(memory))
        logits = forced_logits(model, ids, memory, attention)[rows]
        whole = logits if run.method == FULL else whole
        assert whole is not None
        likeliest = logits.argmax(-1)
        yield Outcome(
            kind=task.kind,
            source=task.source,
            context=task.context,
            method=run.method,
            share=run.share,
            left=attention.share,
            tokens=len(judged),
            nll=float(cross_entropy(logits, expected)),
            kl=_divergence(whole, logits),
            same=int((likeliest == whole.argmax(-1)).sum()),
            right=int((likeliest == expected).sum()),
        )


def _answer(
    model: LoadedModel, memory: TextMemory, ids: list[int], tokens: int, stops: Sequence[int]
) -> list[int]:
    """What full attention answers greedily, up to its end."""
    attention = SelectedAttention(memory, Everything())
    answer: list[int] = []
    start, prompt = memory.prompt, memory.prompt
    while len(answer) < tokens and not (answer and answer[-1] in stops):
        memory.prompt = start
        logits = forced_logits(model, [*ids, *answer], memory, attention)
        start = len(ids) + len(answer)
        answer.append(int(logits[-1].argmax()))
    memory.prompt = prompt
    return answer


def _divergence(whole: Tensor, other: Tensor) -> float:
    """The mean Kullback-Leibler divergence of rows of logits, in nats."""
    p, q = whole.double().log_softmax(-1), other.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())
