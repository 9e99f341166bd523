"""Random models for the contestants, created once and kept in the cache."""

import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.engine.workload import VOCABULARY
from benchmarks.harness.paths import CACHE, ROOT


class Shape(NamedTuple):
    """The dimensions of a Llama; head_dim is 64."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int

    @property
    def layer_weights(self) -> int:
        """Weights of the layers' matrices, each used once per token."""
        attention = 2 * self.hidden * 64 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Weights of the output matrix, used once per sampled token."""
        return VOCABULARY * self.hidden

    @property
    def weights(self) -> int:
        """All weights: matrices, embeddings and norms."""
        norms = (2 * self.layers + 1) * self.hidden
        return self.layer_weights + 2 * self.head_weights + norms


SHAPES: Final = {
    "tiny": Shape(layers=4, hidden=256, intermediate=704, heads=4, kv_heads=2),
    "m100": Shape(layers=14, hidden=768, intermediate=2048, heads=12, kv_heads=4),
}


def model_folder(size: str) -> Path:
    """The folder of a size's model; created with fixed weights if missing."""
    folder = CACHE / "models" / size
    if not (folder / "config.json").exists():
        print(f"creating the {size} model ({SHAPES[size].weights / 1e6:.1f}M random weights)")
        subprocess.run(
            [sys.executable, "-m", "benchmarks.engine.weights", size, str(folder)],
            cwd=ROOT,
            check=True,
        )
    return folder
