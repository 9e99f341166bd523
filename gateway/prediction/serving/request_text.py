"""What the predictor process reads of a request's texts."""

from typing import Final

MAX_INSTRUCTION_CHARS: Final = 1_000  # the encoder reads fewer
MAX_INPUT_CHARS: Final = 20_000  # of a longer text, half from each end


def head_and_tail(text: str) -> str:
    """The text; of a very long one, the first and last MAX_INPUT_CHARS / 2."""
    if len(text) <= MAX_INPUT_CHARS:
        return text
    half = MAX_INPUT_CHARS // 2
    return f"{text[:half]}\n{text[-half:]}"


def encodable(text: str) -> str:
    """The text with lone surrogates replaced, which JSON may carry and UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
