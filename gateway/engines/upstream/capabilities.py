"""What a server can do, and what it cannot do as this gateway's own engine does."""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from engine.protocol import GrammarKind

ServerKind: TypeAlias = Literal["vllm", "llama.cpp", "openai"]

# Parameters of the API that not every server has, by those that have them alike.
PARAMETERS: Final[Mapping[str, frozenset[ServerKind]]] = {
    "top_k": frozenset({"vllm", "llama.cpp"}),
    "min_p": frozenset({"vllm", "llama.cpp"}),
    "presence_penalty": frozenset({"vllm", "openai"}),  # llama.cpp's count the prompt
    "frequency_penalty": frozenset({"vllm", "openai"}),
    "repetition_penalty": frozenset({"vllm", "llama.cpp"}),
    "logit_bias": frozenset({"vllm", "llama.cpp"}),
    "allowed_token_ids": frozenset({"vllm"}),
    "min_tokens": frozenset({"vllm"}),
    "bad_words": frozenset({"vllm"}),
    "ignore_eos": frozenset({"vllm", "llama.cpp"}),
    "stop_token_ids": frozenset({"vllm", "llama.cpp"}),
    "logprobs": frozenset({"vllm", "llama.cpp"}),
}
GRAMMARS: Final[Mapping[GrammarKind, str]] = {
    "json_schema": "take a JSON schema",
    "regex": "take a regular expression",
    "lark": "take a grammar, as this field or this set of tools needs",
}
OPERATIONS: Final[Mapping[str, str]] = {
    "pause": "be paused",
    "pins": "keep prefixes on demand",
    "lockstep": "run batches in lock step",
}


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a server can do, as it showed when it was connected.

    `token_prompts`: it takes token ids. `token_answers`: it returns those of answers; without,
    answers are encoded again, and their ids are an estimate. `salts`: it keeps the cached prefixes
    of tenants apart. `intervals`: it can send several tokens of a stream together. `most_running`
    is what it runs at once, if it says so.
    """

    kind: ServerKind
    version: str
    model: str
    token_prompts: bool
    token_answers: bool
    grammars: tuple[GrammarKind, ...] = ()
    priority: bool = False
    salts: bool = False
    intervals: bool = False
    metrics: bool = False
    most_running: int | None = None

    @property
    def name(self) -> str:
        """The server, for messages."""
        kind = "an OpenAI-compatible server" if self.kind == "openai" else self.kind
        return f"{kind} {self.version}".strip()

    @property
    def refusals(self) -> dict[str, str]:
        """Why it cannot do what is named: a parameter, a kind of grammar, or an operation."""
        absent = {
            name: "do this as this gateway's own engine does"
            for name, kinds in PARAMETERS.items()
            if self.kind not in kinds
        }
        absent |= {kind: words for kind, words in GRAMMARS.items() if kind not in self.grammars}
        absent |= OPERATIONS
        return {
            name: f"the model runs on {self.name}, which cannot {words}"
            for name, words in absent.items()
        }

    @property
    def probed(self) -> dict[str, str | int | bool]:
        """What it showed, for operators."""
        found: dict[str, str | int | bool] = {
            "kind": self.kind,
            "version": self.version,
            "model": self.model,
            "token_prompts": self.token_prompts,
            "token_answers": self.token_answers,
            "grammars": ", ".join(self.grammars),
            "priority": self.priority,
            "salts": self.salts,
            "intervals": self.intervals,
            "metrics": self.metrics,
        }
        return found if self.most_running is None else found | {"most_running": self.most_running}
