"""Small random models, and an engine for them without its process."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import torch
from msgspec import structs
from structlog.testing import capture_logs
from structlog.typing import EventDict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

from engine.grammar.cache import GrammarCache
from engine.kv.host import HostTier, RestoreCosts
from engine.kv.pages import PagePool
from engine.loop import StepLoop
from engine.protocol import Finish, Sequence, Step
from engine.running.model import load_model
from engine.running.offloading import set_up_offloading
from engine.running.runner import Runner, choose_attention
from engine.step.commands import Command, Start
from engine.step.composer import Composer
from engine.step.memory import KvMemory
from engine.step.offloaded import OffloadedQueue
from gateway.scheduling.magnus.lockstep import halves_of
from tests.conftest import PATIENCE_S

VOCABULARY = 97
END = 96  # the stop id of `tokenizer_file`
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-tied": {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "num_key_value_heads": 1,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "qwen2": {"model_type": "qwen2"},
    "qwen2-mixed": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 12,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "mistral": {"model_type": "mistral", "sliding_window": 12},
    "gemma": {"model_type": "gemma", "head_dim": 16},
    "gpt2": {"model_type": "gpt2", "num_key_value_heads": None},
    "gpt_neox": {"model_type": "gpt_neox", "num_key_value_heads": None},
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def events_logged() -> Iterator[list[EventDict]]:
    """The engine's log events, not printed."""
    with capture_logs() as logged:
        yield logged


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small random model of a family, created once."""
    created: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in created:
            torch.manual_seed(11)
            config = AutoConfig.for_model(**(SHAPE | FAMILIES[family]))
            model = AutoModelForCausalLM.from_config(config)
            created[family] = tmp_path_factory.mktemp(family) / "model"
            model.save_pretrained(created[family])
        return created[family]

    return folder


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `tokenizer.json` of the small models: printable ASCII, with four pairs and `END`."""
    letters = [chr(code) for code in range(0x21, 0x7F) if chr(code) not in "`~^@"]
    pairs = [("{", '"'), ('"', ":"), ('"', ","), ("0", "0")]
    pieces = [*letters, "Ġ", "Ċ", *map("".join, pairs)]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    assert tokenizer.token_to_id("<end>") == END == VOCABULARY - 1
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(file))
    return file


@pytest.fixture(scope="session")
def a_runner(
    model_folder: Callable[[str], Path],
) -> Callable[..., Runner]:
    """A runner for a family's small model, or for a folder."""

    def build(
        model: str | Path = "llama",
        *,
        pages: int = 64,
        page_tokens: int = 4,
        offload_pages: int = 0,
    ) -> Runner:
        folder = model if isinstance(model, Path) else model_folder(model)
        loaded = load_model(str(folder), "cpu", "float32")
        offloading = None
        if offload_pages:
            offloading = set_up_offloading(loaded, offload_pages, page_tokens, choose_attention)
        return Runner(loaded, pages, page_tokens, offloading=offloading)

    return build


@pytest.fixture
def a_sequence() -> Callable[..., Sequence]:
    """A sequence with defaults."""

    def build(name: str = "s", prompt: Iterable[int] = (1, 2, 3), **fields: Any) -> Sequence:
        fields = {"max_tokens": 8, "reserve": 8, **fields}
        return Sequence(id=name, prompt=list(prompt), **fields)

    return build


class LoopRun:
    """A step loop in its thread, and all that it emitted.

    Like the gateway, it submits the sequences of a batch that ran out of memory again, in halves.
    """

    def __init__(
        self,
        runner: Runner,
        memory: KvMemory,
        step_tokens: int,
        max_running: int | None,
        grammars: GrammarCache | None,
        offload_pages: int = 0,
    ) -> None:
        self.steps: list[Step] = []
        self.failures: list[BaseException] = []
        self.memory = memory
        self._submitted: dict[str, Sequence] = {}
        self._received: Queue[Step | BaseException] = Queue()
        page_tokens = memory.pool.page_tokens
        self.offloaded = OffloadedQueue(PagePool(offload_pages, page_tokens), step_tokens)
        composer = Composer(memory, step_tokens, max_running, offloaded=self.offloaded)
        received = self._received.put
        self.loop = StepLoop(runner, composer, received, received, grammars)

    def until(self, condition: Callable[["LoopRun"], bool]) -> None:
        """Read steps until a condition holds, within the deadline."""
        while not condition(self):
            received = self._received.get(timeout=PATIENCE_S)
            if isinstance(received, Step):
                self.steps.append(received)
                for half in halves_of(received.returned):
                    self.loop.put(Start([self._continued(name) for name in half]))
            else:
                self.failures.append(received)
                assert condition(self), f"the loop died: {received!r}"

    def submit(self, sequences: list[Sequence], *commands: Command) -> None:
        """Start sequences, in lock step as one batch."""
        self._submitted.update({sequence.id: sequence for sequence in sequences})
        self.loop.put(Start(sequences), *commands)

    def all(self, sequences: list[Sequence], *commands: Command) -> dict[str, list[int]]:
        """Run sequences to their end; the tokens of each."""
        self.submit(sequences, *commands)
        names = {sequence.id for sequence in sequences}
        self.until(lambda run: names <= run.finishes.keys())
        return {sequence.id: self.tokens(sequence.id) for sequence in sequences}

    def _continued(self, name: str) -> Sequence:
        """The sequence with the tokens generated so far."""
        submitted = self._submitted[name]
        return structs.replace(submitted, generated=submitted.generated + self.tokens(name))

    def tokens(self, name: str) -> list[int]:
        return [token for step in self.steps for token in step.tokens.get(name, [])]

    @property
    def computed(self) -> int:
        """Tokens run through the model."""
        return sum(step.computed for step in self.steps)

    @property
    def finishes(self) -> dict[str, Finish]:
        return {finish.id: finish for step in self.steps for finish in step.finished}

    @property
    def preempted(self) -> list[str]:
        return [name for step in self.steps for name in step.preempted]

    @property
    def reused(self) -> dict[str, int]:
        """Prompt tokens that were not computed, each sequence reported once."""
        reported = [item for step in self.steps for item in step.reused.items()]
        assert len(reported) == len(dict(reported))
        return dict(reported)

    @property
    def unpinned(self) -> list[str]:
        return [name for step in self.steps for name in step.unpinned]

    @property
    def returned(self) -> list[list[str]]:
        return [step.returned for step in self.steps if step.returned]


@pytest.fixture
def a_run(a_runner: Callable[..., Runner]) -> Iterator[Callable[..., LoopRun]]:
    """A running step loop; its pages are checked after the test."""
    runs: list[LoopRun] = []

    def start(
        model: str | Path | Runner = "llama",
        *,
        pages: int = 64,
        page_tokens: int = 4,
        step_tokens: int = 64,
        sharing: bool = False,
        host_pages: int = 0,
        max_running: int | None = None,
        pin_share: float = 1.0,
        grammars: GrammarCache | None = None,
        offload_pages: int = 0,
    ) -> LoopRun:
        sizes = {"pages": pages, "page_tokens": page_tokens, "offload_pages": offload_pages}
        runner = model if isinstance(model, Runner) else a_runner(model, **sizes)
        host = HostTier(host_pages, RestoreCosts(page_copy_s=0.0, token_s=1.0))
        memory = KvMemory(PagePool(pages, page_tokens), host, sharing=sharing, pin_share=pin_share)
        runs.append(LoopRun(runner, memory, step_tokens, max_running, grammars, offload_pages))
        runs[-1].loop.start()
        return runs[-1]

    yield start
    for run in runs:
        run.loop.close()
        run.loop.join(PATIENCE_S)
        assert not run.loop.is_alive()
        run.loop.table.composer.check()
