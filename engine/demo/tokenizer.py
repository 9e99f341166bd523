"""The demo model's tokenizer: whole words of the lexicon, characters and bytes for the rest."""

import re
from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from engine.demo.jobs import JOBS
from engine.demo.lexicon import NAMES, OPERATORS, TENS, UNITS, VARIABLES, VELAN, WORDS

PAD: Final = "<|pad|>"
SYSTEM: Final = "<|system|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
END: Final = "<|end|>"
UNKNOWN: Final = "<|unknown|>"
SPECIAL: Final = (PAD, SYSTEM, USER, ASSISTANT, END, UNKNOWN)

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message.role in ('system', 'developer') %}<|system|>{{ message.content }}"
    "{% elif message.role == 'assistant' %}<|assistant|>{{ message.content }}<|end|>"
    "{% else %}<|user|>{{ message.content }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

SPECIAL_TOKEN_SCORE: Final = -1000.0  # so low that plain text never encodes to a special token
_SPACE: Final = "▁"
_PROSE: Final = [
    "the",
    "a",
    "diary",
    "of",
    "day",
    "becomes",
    "number",
    "copy",
    "over",
    "plus",
    "minus",
    "times",
    "is",
    "and",
    "to",
    "in",
    "what",
    "who",
]


def vocabulary() -> list[str]:
    """All pieces, without duplicates: special tokens, bytes, characters, words with a space."""
    instructions = " ".join(text for job in JOBS for text in job.instructions)
    words = dict.fromkeys(
        (
            *_PROSE,
            *WORDS,
            *VELAN.values(),
            *NAMES,
            *VARIABLES,
            *UNITS,
            *TENS,
            *map(str, range(100)),
            *OPERATORS,
            "=",
            *re.findall(r"[A-Za-z]+", instructions),
            *"abcdefghijklmnopqrstuvwxyz",
        )
    )
    printable = [chr(code) for code in range(32, 127)]
    pieces = (
        *SPECIAL,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        _SPACE,
        "\n",
        *printable,
        *(_SPACE + word for word in words),
    )
    return list(dict.fromkeys(pieces))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that encodes any text and decodes it to the same text.

    All pieces score the same, so the segmentation with the fewest pieces is best.
    """
    pieces = vocabulary()
    core = Tokenizer(
        Unigram(
            [(piece, SPECIAL_TOKEN_SCORE if piece in SPECIAL else -1.0) for piece in pieces],
            unk_id=pieces.index(UNKNOWN),
            byte_fallback=True,
        )
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")
    core.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
