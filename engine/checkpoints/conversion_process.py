"""Converts a GGUF file to a folder: `python -m engine.checkpoints.conversion_process FILE FOLDER`.

Prints one line and ends with status 2 if the file is not served or is damaged.
"""

import functools
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import Any, Final

import gguf
import torch
from safetensors import SafetensorError
from tokenizers import Regex, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
)
from transformers.utils import logging as transformers_logging

from engine.errors import StartupFailure, UnsupportedModel
from engine.running.loaded_model import check_supported

EXIT_REFUSED: Final = 2
ARCHITECTURES: Final = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
# Parsing a file takes seconds, and transformers parses it again for each of its parts.
gguf.GGUFReader = functools.cache(gguf.GGUFReader)
BYTES: Final = {torch.float32: 4, torch.float16: 2, torch.bfloat16: 2}
FILE_TYPES: Final = {0: torch.float32, 1: torch.float16}  # unquantised; others become bfloat16
BYTE_LEVEL: Final = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
PUNCTUATION: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(digits: str) -> Any:
    """A byte-level pre-tokenizer that cuts numbers as `digits` says."""
    pattern = Regex(f"{CONTRACTIONS}|{digits}|{PUNCTUATION}")
    return pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), BYTE_LEVEL])


# How a text is cut before byte-pair encoding, by the name in the file; transformers ignores it.
PRE_TOKENIZERS: Final = {
    "default": None,
    "gpt-2": None,
    "smollm": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    "llama-bpe": _split(r"\p{N}{1,3}"),
    "qwen2": _split(r"\p{N}"),
}


class GgufFile:
    """The metadata of a file. UnsupportedModel if it is damaged."""

    def __init__(self, file: Path) -> None:
        try:
            self._reader = gguf.GGUFReader(str(file))  # as transformers passes it
        except (ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
            raise UnsupportedModel(f"the file is damaged: {error}") from error
        self.architecture: str = self.field("general.architecture", "")
        self.tensors = {tensor.name: int(tensor.n_elements) for tensor in self._reader.tensors}

    def field(self, name: str, default: Any = None) -> Any:
        """A metadata value; the default if the file has none of this name."""
        field = self._reader.get_field(name)
        return default if field is None else field.contents()

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the converted model."""
        return FILE_TYPES.get(self.field("general.file_type", -1), torch.bfloat16)

    def check(self) -> None:
        """UnsupportedModel if the conversion would drop something that the tokens depend on."""
        kind = self.architecture
        if kind not in ARCHITECTURES:
            raise UnsupportedModel(
                f"a GGUF file of a {kind or 'nameless'} model is not served; accepted are "
                f"{', '.join(ARCHITECTURES)}"
            )
        if self.field("split.count", 1) > 1:
            raise UnsupportedModel("split GGUF files are not served; merge them first")
        if self.field(f"{kind}.expert_count", 0):
            raise UnsupportedModel("mixtures of experts are not served")
        scaling = self.field(f"{kind}.rope.scaling.type", "none")
        if scaling != "none" or "rope_freqs.weight" in self.tensors:
            raise UnsupportedModel(
                "the conversion drops the scaling of its RoPE; use the model's own folder instead"
            )
        cut = self.field("tokenizer.ggml.pre", "default")
        if self.field("tokenizer.ggml.model") == "gpt2" and cut not in PRE_TOKENIZERS:
            raise UnsupportedModel(
                f"the pre-tokenizer {cut} is not served; accepted are {', '.join(PRE_TOKENIZERS)}"
            )


def convert(file: Path, folder: Path) -> None:
    """Write the model, tokenizer and chat template of a GGUF file to an existing folder."""
    metadata = GgufFile(file)
    metadata.check()
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    config = AutoConfig.from_pretrained(**source)
    check_supported(config)
    needed = sum(metadata.tensors.values()) * BYTES[metadata.dtype]
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UnsupportedModel(
            f"{folder.parent}: {needed / 1e6:.0f} MB are needed, and {free / 1e6:.0f} MB are free"
        )
    _save_tokenizer(metadata, source, folder)
    _save_model(metadata, source, config, folder)


def _save_tokenizer(metadata: GgufFile, source: dict[str, str], folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(**source)
    if metadata.field("tokenizer.ggml.model") == "gpt2":
        cut = PRE_TOKENIZERS[metadata.field("tokenizer.ggml.pre", "default")]
        if cut is not None:
            tokenizer.backend_tokenizer.pre_tokenizer = cut
    tokenizer.save_pretrained(folder)


def _save_model(metadata: GgufFile, source: dict[str, str], config: Any, folder: Path) -> None:
    model, loading = AutoModelForCausalLM.from_pretrained(
        **source,
        config=config,
        dtype=metadata.dtype,
        quantization_config=GgufConfig(gguf_file=source["gguf_file"], dequantize=True),
        output_loading_info=True,
    )
    if loading["missing_keys"]:
        raise UnsupportedModel(f"the file has no weights for {min(loading['missing_keys'])}")
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    ends = {metadata.field(f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot")} - {None}
    if len(ends) > 1:
        model.generation_config.eos_token_id = sorted(ends)
    model.save_pretrained(folder)


def main() -> int:
    """Convert the file and folder of the command line; the exit status."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    file, folder = map(Path, sys.argv[1:])
    try:
        convert(file.absolute(), folder)
    except (StartupFailure, OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(reason.removeprefix("LMAAS_MODEL: "))  # noqa: T201 - the line that the parent reads
        return EXIT_REFUSED
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
