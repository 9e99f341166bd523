"""The engines of E4, each in the number formats that it may be fastest in."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.e4.llama_cpp import gguf_file, server
from benchmarks.e4.llama_server import LlamaServers
from benchmarks.e4.servers import OurServer, Server, VllmServer

OURS: Final = "ours"
VLLM: Final = "vllm"
LLAMA: Final = "llama.cpp"
QUANTIZED: Final = "q4_1"  # a further row of llama.cpp, without a target
FORMATS: Final = {
    OURS: ("bfloat16", "float32"),
    VLLM: ("bfloat16", "float32"),
    LLAMA: ("bf16", "f16", "f32"),
}
BYTES: Final = {
    "bfloat16": 2.0,
    "bf16": 2.0,
    "f16": 2.0,
    "float32": 4.0,
    "f32": 4.0,
    QUANTIZED: 0.625,
}


@dataclass(frozen=True)
class Contender:
    """An engine in a number format."""

    engine: str
    format: str

    @property
    def name(self) -> str:
        """Both."""
        return f"{self.engine} {self.format}"

    @property
    def further(self) -> bool:
        """Whether it is measured without a target, as its weights are not the same."""
        return self.format == QUANTIZED

    @property
    def weight_bytes(self) -> float:
        """Bytes of a weight."""
        return BYTES[self.format]

    def start(self, model: Path, clients: Iterable[int], threads: int) -> Server:
        """Start it for these numbers of clients. RuntimeError if it cannot be had."""
        label = f"E4-{self.engine}-{self.format}"
        if self.engine == OURS:
            return OurServer(label, model, dtype=self.format, threads=threads)
        if self.engine == VLLM:
            return VllmServer(label, model, dtype=self.format, threads=threads)
        file = gguf_file(model, self.format)
        return LlamaServers(label, server(), file, clients=clients, threads=threads)


def contenders(engine: str) -> list[Contender]:
    """An engine in each of its formats."""
    return [Contender(engine, each) for each in FORMATS[engine]]
