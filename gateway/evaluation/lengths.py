"""Text lengths in words, in tokens of a byte-pair encoding trained on the corpus, or as measured.

`measured` are the lengths of a served model's own answers, given with the lines.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from gateway.errors import InvalidRequest
from gateway.evaluation.corpus import CorpusLine, MeasuredLength

LengthRule = Literal["words", "bpe", "measured"]
TokenCounter: TypeAlias = Callable[[Sequence[str]], NDArray[np.int64]]  # tokens of each text, (n,)

MAX_TOKENS: Final = 16_384  # of a request; longer than any answer of 8,000 characters
MAX_VOCABULARY: Final = 16_000  # entries
_IDEOGRAPH: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD: Final = re.compile(rf"[{_IDEOGRAPH}_]|[^\W_{_IDEOGRAPH}]+|[^\w\s]")


def token_counter(rule: LengthRule, train: Iterable[CorpusLine]) -> TokenCounter | None:
    """The token counter of a rule, none for `measured`; `bpe` is trained on these lines."""
    if rule == "measured":
        return None
    return count_words if rule == "words" else train_bpe(train)


def line_lengths(lines: Sequence[CorpusLine], count: TokenCounter | None) -> list[MeasuredLength]:
    """The lengths of each line: counted, or without a counter as measured.

    InvalidRequest for a line that has none.
    """
    if count is None:
        return [_measured(line) for line in lines]
    instructions = list({line.instruction for line in lines})
    tokens_of = dict(zip(instructions, count(instructions).tolist(), strict=True))
    inputs, outputs = (
        count(texts).tolist()
        for texts in ([line.input for line in lines], [line.output for line in lines])
    )
    return [
        MeasuredLength(
            input_tokens=of_input,
            prompt_tokens=of_input + tokens_of[line.instruction],
            answer_tokens=max(of_output, 1),
            max_tokens=MAX_TOKENS,
        )
        for line, of_input, of_output in zip(lines, inputs, outputs, strict=True)
    ]


def _measured(line: CorpusLine) -> MeasuredLength:
    if line.measured is None:
        raise InvalidRequest(f"a line of {line.app} has no measured length")
    return line.measured


def count_words(texts: Sequence[str]) -> NDArray[np.int64]:
    """Count words and punctuation marks; each ideograph and underscore counts as one."""
    return np.array([len(_WORD.findall(text)) for text in texts], dtype=np.int64)


def train_bpe(lines: Iterable[CorpusLine]) -> TokenCounter:
    """A counter by a byte-level BPE (Sennrich et al. 2016), trained on these lines' texts."""
    tokenizer = Tokenizer(BPE())
    # Assigned as the library documents; its stubs declare the property read-only.
    setattr(tokenizer, "pre_tokenizer", ByteLevel(add_prefix_space=False))  # noqa: B010
    trainer = BpeTrainer(
        vocab_size=MAX_VOCABULARY, show_progress=False, initial_alphabet=ByteLevel.alphabet()
    )
    texts = (text for line in lines for text in (line.input, line.output))
    tokenizer.train_from_iterator(texts, trainer)

    def count(texts: Sequence[str]) -> NDArray[np.int64]:
        encoded = tokenizer.encode_batch_fast(list(texts))
        return np.array([len(each.ids) for each in encoded], dtype=np.int64)

    return count
