"""Requests from a folder of texts: prompts as chats, and the lengths of the answers."""

from pathlib import Path
from random import Random
from typing import Any, Final

from transformers import AutoTokenizer

from benchmarks.engine.workload import Request
from gateway.evaluation.corpus import CorpusLine, read_corpus

SEED: Final = 17
MAX_PROMPT: Final = 512  # tokens; requests with longer prompts are left out
MAX_ANSWER: Final = 384  # tokens; longer answers are cut
CONTEXT_TOKENS: Final = 1024  # holds any of the requests


def text_requests(data: Path, model: Path, count: int) -> list[Request]:
    """Random `valid` lines of a folder, always the same ones, as tokens of the model."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    lines = read_corpus(data, data).test
    Random(SEED).shuffle(lines)
    found: list[Request] = []
    for line in lines:
        prompt = _prompt(tokenizer, line)
        if len(prompt) <= MAX_PROMPT:
            answer = len(tokenizer(line.output, add_special_tokens=False)["input_ids"])
            found.append(Request(f"r{len(found):03}", prompt, min(max(answer, 1), MAX_ANSWER)))
        if len(found) == count:
            break
    return found


def _prompt(tokenizer: Any, line: CorpusLine) -> list[int]:
    """The line as a chat: the instruction as the system's message, the input as the user's."""
    chat = [
        {"role": "system", "content": line.instruction},
        {"role": "user", "content": line.input},
    ]
    encoded = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
    ids: list[int] = encoded["input_ids"]
    return ids
