"""Text for servers that take or return no token ids."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.generation.text.token_codec import TextCodec
from gateway.generation.text.tokenizer import ChatTokenizer

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def spaced() -> TextCodec:
    """The demo model's: a space before every text, as in the tokenizers of Llama 2."""
    return TextCodec(ChatTokenizer(DEMO_FOLDER))


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    """One token for each byte, as the smallest pieces of SmolLM2's or Llama 3's tokenizer."""
    folder = tmp_path_factory.mktemp("bytes")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((DEMO_FOLDER / name).read_bytes())
    return TextCodec(ChatTokenizer(Path(folder)))


@given(text=TEXTS)
def test_tokens_of_a_part_have_its_bytes(byte_level: TextCodec, text: str) -> None:
    assert byte_level.spelled(byte_level.encode(text)) == text.encode()


@pytest.mark.parametrize("text", ["word", " word", "x y  z", "é🙂", "line\nend ", "  "])
def test_no_space_is_added_before_a_part(spaced: TextCodec, text: str) -> None:
    assert spaced.spelled(spaced.encode(text)) == text.encode()


def test_prompt_keeps_its_control_tokens(spaced: TextCodec) -> None:
    tokenizer = ChatTokenizer(DEMO_FOLDER)
    prompt = tokenizer.encode_chat([{"role": "user", "content": "hello"}])
    text = spaced.prompt_text(prompt)
    assert tokenizer.encode_prompt(text) == prompt
