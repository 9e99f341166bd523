"""Random models with a tokenizer, so that a gateway can serve them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from benchmarks.engine.models import model_folder
from benchmarks.engine.workload import VOCABULARY
from benchmarks.harness.paths import CACHE

CHAT_TEMPLATE: Final = "{% for message in messages %}{{ message.content }} {% endfor %}"
UNKNOWN: Final = "0"


def served_folder(size: str) -> Path:
    """The folder of a size's model with a tokenizer: each token is its number, and a space."""

    def copy(folder: Path) -> None:
        shutil.copytree(model_folder(size), folder)

    return with_tokenizer(f"{size}-served", copy)


def with_tokenizer(name: str, write: Callable[[Path], None]) -> Path:
    """The folder of a model that `write` makes, with the tokenizer; made once, atomically."""
    folder = CACHE / "models" / name
    if folder.exists():
        return folder
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    write(unfinished)
    tokenizer = Tokenizer(WordLevel({str(n): n for n in range(VOCABULARY)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, chat_template=CHAT_TEMPLATE
    ).save_pretrained(unfinished)
    unfinished.rename(folder)
    return folder
