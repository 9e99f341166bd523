"""Cues of a text about the length of the answer it asks for."""

import math
import re
from typing import Final

MOST_CHARS: Final = 6_000  # a longer text is judged by its first and last half of this

_VERBS: Final = {
    "create": "write create compose generate draft make design develop build",
    "explain": "explain describe discuss analyze analyse elaborate compare",
    "summarise": "summarize summarise shorten condense outline",
    "translate": "translate convert transform spell",
    "list": "list name enumerate give suggest provide brainstorm",
    "edit": "fix correct edit rewrite rephrase paraphrase improve repair",
    "classify": "classify identify categorize label detect choose select is are",
    "solve": "solve calculate compute find determine evaluate",
    "fact": "what who when where which",
    "reason": "how why",
}
VERBS: Final = {kind: frozenset(verbs.split()) for kind, verbs in _VERBS.items()}

_WORD = re.compile(r"[^\W_]+")
_CODE = re.compile(
    r"```|[;{}]\s*$|=>|->|==|!=|\w\(|</?\w+>|^\s*(?:def|class|import|return|public|private|for|if)\b",
    re.MULTILINE,
)
_SYMBOLS = re.compile(r"[{}\[\]();=<>_]")
_LIST = re.compile(r"\b(?:list|bullets?|enumerate|steps|examples|ideas|tips|ways)\b", re.IGNORECASE)
_STRUCTURE = re.compile(r"\b(?:json|xml|yaml|csv|table|html|markdown)\b", re.IGNORECASE)
_BRIEF = re.compile(
    r"\b(?:brief(?:ly)?|short|concise(?:ly)?|one[- ]word|yes or no|only|just)\b", re.IGNORECASE
)
_LONG = re.compile(
    r"\b(?:detailed?|in depth|thorough(?:ly)?|comprehensive|essay|story|article|blog|long|report"
    r"|step by step)\b",
    re.IGNORECASE,
)
_COUNTING = "zero one two three four five six seven eight nine ten eleven twelve"
_NUMBERS: Final = {name: number for number, name in enumerate(_COUNTING.split())}
_UNITS: Final[dict[str, float]] = {  # words an asked unit amounts to, roughly
    "word": 1,
    "token": 0.75,
    "character": 0.2,
    "letter": 0.2,
    "line": 12,
    "sentence": 18,
    "paragraph": 80,
    "page": 400,
    "point": 15,
    "item": 8,
    "step": 20,
    "example": 20,
    "reason": 25,
    "way": 20,
    "tip": 20,
    "idea": 15,
    "bullet": 15,
}
_ASKED = re.compile(
    rf"\b(\d{{1,6}}|{'|'.join(_NUMBERS)})[\s-]+(?:\w+[\s-]+)?({'|'.join(_UNITS)})s?\b",
    re.IGNORECASE,
)

NAMES: Final = (
    "log_chars",
    "log_words",
    "log_lines",
    "word_chars",
    "distinct_words",
    "digits",
    "capitals",
    "symbols",
    "foreign_letters",
    "log_numbers",
    "log_question_marks",
    "ends_with_question_mark",
    "log_code_signs",
    "asks_list",
    "asks_structure",
    "asks_brief",
    "asks_long",
    "asks_length",
    "log_asked_words",
    *(f"leads_with_{verb}" for verb in VERBS),
)


def cues(text: str) -> list[float]:
    """The cues `NAMES` of any text, all finite; counts as log(1 + n), shares in 0 … 1."""
    size = len(text)
    if size > MOST_CHARS:
        text = f"{text[: MOST_CHARS // 2]}\n{text[-MOST_CHARS // 2 :]}"
    words = _WORD.findall(text)
    letters = max(len(text), 1)
    asked = asked_words(text)
    first = words[0].lower() if words else ""
    return [
        math.log1p(size),
        math.log1p(len(words) * size / letters),
        math.log1p(text.count("\n") * size / letters),
        sum(map(len, words)) / max(len(words), 1),
        len({word.lower() for word in words}) / max(len(words), 1),
        sum(map(str.isdigit, text)) / letters,
        sum(map(str.isupper, text)) / letters,
        len(_SYMBOLS.findall(text)) / letters,
        (len(text) - len(text.encode("ascii", "ignore"))) / letters,
        math.log1p(sum(word.isdigit() for word in words)),
        math.log1p(text.count("?")),
        float(text.rstrip().endswith("?")),
        math.log1p(len(_CODE.findall(text))),
        float(_LIST.search(text) is not None),
        float(_STRUCTURE.search(text) is not None),
        float(_BRIEF.search(text) is not None),
        float(_LONG.search(text) is not None),
        float(asked is not None),
        math.log1p(asked or 0.0),
        *(float(first in verbs) for verbs in VERBS.values()),
    ]


def asked_words(text: str) -> float | None:
    """The length a text asks for ("in 50 words", "three sentences") in words; None if it does not.

    Of several the largest counts.
    """
    asked = [
        (int(number) if number.isdecimal() else _NUMBERS[number.lower()]) * _UNITS[unit.lower()]
        for number, unit in _ASKED.findall(text)
    ]
    return max(asked, default=None)
