"""Single tokens as text and bytes, for each kind of tokenizer decoder."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from gateway.generation.text.token_bytes import Speller
from gateway.generation.text.tokenizer import ChatTokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=40)


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    """A byte-level tokenizer like GPT-2's: a token may be part of a character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(["brave queen finds golden castle"] * 9, trainer)
    return tokenizer


def spell(speller: Speller, ids: list[int]) -> bytes:
    return b"".join(
        speller.spell(token, first=place == 0).bytes or b"" for place, token in enumerate(ids)
    )


@given(text=TEXT)
def test_byte_level_tokens_concatenate_to_the_text(byte_level: Tokenizer, text: str) -> None:
    speller = Speller(byte_level, msgspec.json.decode(byte_level.to_str())["decoder"])
    assert spell(speller, byte_level.encode(text).ids) == text.encode()


@given(text=TEXT)
def test_byte_fallback_tokens_concatenate_to_the_text(tokenizer: ChatTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert spell(tokenizer.speller, ids).decode() == tokenizer._tokenizer.decode(ids)


def test_part_of_a_character_has_its_bytes_and_a_replacement_character(
    tokenizer: ChatTokenizer,
) -> None:
    spelled = [tokenizer.speller.spell(token) for token in tokenizer.encode("日")[-3:]]
    assert b"".join(each.bytes or b"" for each in spelled) == "日".encode()
    assert [each.text for each in spelled] == ["\ufffd"] * 3


def test_control_token_has_a_name_and_no_bytes(tokenizer: ChatTokenizer) -> None:
    (end,) = tokenizer.encode("<|end|>")
    spelled = tokenizer.speller.spell(end)
    assert (spelled.text, spelled.bytes) == ("<|end|>", None)


def test_id_unknown_to_the_tokenizer_has_no_text(tokenizer: ChatTokenizer) -> None:
    assert tokenizer.speller.spell(10**6).bytes == b""


def test_unknown_decoder_decodes_the_token_itself() -> None:
    tokenizer = Tokenizer(models.WordLevel({"brave": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    speller = Speller(tokenizer, {"type": "WordPiece"})
    assert speller.spell(0).bytes == b"brave"


def test_only_the_first_token_loses_its_leading_space(tokenizer: ChatTokenizer) -> None:
    (token,) = tokenizer.encode("queen")
    spell = tokenizer.speller.spell
    assert (spell(token).text, spell(token, first=True).text) == (" queen", "queen")
