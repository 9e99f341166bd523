"""Text features that correlate with the length of the requested answer.

Most are byte counts by character class, from one histogram of the text's bytes; the rest come from
linear-time regular expressions. Counts enter as log(1 + n), shares in 0 … 1. Of a text longer than
MAX_CHARS, the first and last MAX_CHARS / 2 are read and counts are scaled to the whole text.
"""

import math
import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_CHARS: Final = 4_000

_CLASSES: Final = {
    "digits": b"0123456789",
    "capitals": b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "spaces": b" \t",
    "lines": b"\n",
    "points": b".",
    "commas": b",",
    "questions": b"?",
    "exclamations": b"!",
    "colons": b":",
    "semicolons": b";",
    "round": b"(",
    "braces": b"{",
    "square": b"[",
    "angles": b"<>",
    "equals": b"=",
    "underscores": b"_",
    "quotes": b"\"'`",
    "money": b"$",
    "percent": b"%",
    "operators": b"+-*/&|",
    "hashes": b"#",
    "at": b"@",
    "foreign": bytes(range(0xC2, 0xF5)),
}
_CLASS_OF: Final = np.zeros((256, len(_CLASSES)))
for _column, _members in enumerate(_CLASSES.values()):
    _CLASS_OF[list(_members), _column] = 1.0

_VERBS: Final = {
    "create": "write create compose generate draft make design develop build implement",
    "explain": "explain describe discuss analyze analyse elaborate compare",
    "summarise": "summarize summarise shorten condense outline",
    "translate": "translate convert transform spell",
    "list": "list name enumerate give suggest provide brainstorm",
    "edit": "fix correct edit rewrite rephrase paraphrase improve repair",
    "classify": "classify identify categorize label detect choose select is are was were",
    "solve": "solve calculate compute find determine evaluate",
    "fact": "what who when where which",
    "reason": "how why",
    "doubt": "can could do does did should would will",
}
VERBS: Final = {kind: number + 1 for number, kind in enumerate(_VERBS)}
_KIND_OF: Final = {word: VERBS[kind] for kind, text in _VERBS.items() for word in text.split()}

_FIRST_WORD = re.compile(r"[^\W_]+")
_LAST_SENTENCE = re.compile(r"[.?!\n]\s+(?=\S)")
_ASKS_LIST = re.compile(
    r"\b(?:list|bullets?|enumerate|steps|examples|ideas|tips|ways|reasons|things)\b", re.IGNORECASE
)
_ASKS_STRUCTURE = re.compile(r"\b(?:json|xml|yaml|csv|table|html|markdown)\b", re.IGNORECASE)
_ASKS_BRIEF = re.compile(
    r"\b(?:brief(?:ly)?|short|concise(?:ly)?|one[- ]word|yes or no|only|just|single|sentence)\b",
    re.IGNORECASE,
)
_ASKS_LONG = re.compile(
    r"\b(?:detail(?:s|ed)?|in depth|thorough(?:ly)?|comprehensive|essay|story|article|blog|long"
    r"|report|step by step|paragraphs?|poem|letter|speech|dialogue)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_QUANTITY = re.compile(
    r"\b(?:twice|half|third|quarter|double|triple|times|each|every|per|more|less|fewer|than|total"
    r"|remaining|left|rest|one|two|three|four|five|six|seven|eight|nine|ten|dozen)\b",
    re.IGNORECASE,
)
_CODE_KEYWORD = re.compile(
    r"\b(return|raise|throw|yield|if|elif|else|for|while|try|except|catch|with|class|def|import"
    r"|public|private|protected|static|final|void|new|this|self|assert|lambda|None|null"
    r"|Override|get|set|test)\b"
)
_KEYWORDS: Final = {
    word: column
    for column, words in enumerate(
        (
            "return yield",
            "raise throw assert",
            "if elif else",
            "for while",
            "try except catch with",
            "class import",
            "def lambda",
            "public private protected",
            "static final void",
            "new",
            "this self",
            "None null",
            "Override",
        )
    )
    for word in words.split()
}
_KEYWORD_COLUMNS: Final = max(_KEYWORDS.values()) + 1
_SIGNATURE = re.compile(r"\bdef (\w+)\(([^()]*(?:\([^()]*\)[^()]*)*)\)")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w{2,}")
_TURN = re.compile(r"^\W{0,2}\w[\w .-]{0,20}#?:", re.MULTILINE)

_COUNTING = "zero one two three four five six seven eight nine ten eleven twelve"
_NUMBERS: Final = {name: number for number, name in enumerate(_COUNTING.split())}
_UNITS: Final[dict[str, float]] = {  # words per unit of a requested length, approximately
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
_ASKED_LENGTH = re.compile(
    rf"\b(\d{{1,6}}|{'|'.join(_NUMBERS)})[\s-]+(?:\w+[\s-]+)?({'|'.join(_UNITS)})s?\b",
    re.IGNORECASE,
)

_SIGNATURE_NAMES: Final = (
    "has_signature",
    "parameters",
    "defaults",
    "takes_self",
    "name_pieces",
    "name_private",
    "name_tests",
    "starts_decorated",
)
NAMES: Final = (
    "log_bytes",
    *(f"log_{name}" for name in _CLASSES),
    "share_capitals",
    "share_digits",
    "share_spaces",
    "share_foreign",
    "log_numbers",
    "log_quantities",
    "log_turns",
    "line_chars",
    "first_line_log_chars",
    "indent",
    *(f"log_keywords_{column}" for column in range(_KEYWORD_COLUMNS)),
    *_SIGNATURE_NAMES,
    "log_identifiers",
    "identifier_chars",
    "distinct_identifiers",
    "ends_with_question",
    "asks_list",
    "asks_structure",
    "asks_brief",
    "asks_long",
    "log_asked_words",
    "first_verb",
    "last_verb",
    "last_sentence_log_chars",
)


def cues(text: str) -> NDArray[np.float32]:
    """The features `NAMES` of any text, (len(NAMES),), all finite."""
    size = len(text)
    if size > MAX_CHARS:
        text = f"{text[: MAX_CHARS // 2]}\n{text[-MAX_CHARS // 2 :]}"
    raw = text.encode("utf-8", "replace")
    histogram = np.bincount(np.frombuffer(raw, dtype=np.uint8), minlength=256)
    scale = size / len(text) if text else 1.0
    counts = (histogram @ _CLASS_OF) * scale
    shares = counts / max(len(raw) * scale, 1.0)
    lines = text.split("\n")
    stripped = text.strip()

    keywords = [0] * _KEYWORD_COLUMNS
    for word in _CODE_KEYWORD.findall(text):
        column = _KEYWORDS.get(word)
        if column is not None:
            keywords[column] += 1
    identifiers = _IDENTIFIER.findall(text)
    first = _FIRST_WORD.search(text)
    last = _last_sentence(stripped[-600:])
    last_first = _FIRST_WORD.search(last)
    return np.array(
        [
            math.log1p(len(raw) * scale),
            *np.log1p(counts).tolist(),
            shares[1],
            shares[0],
            shares[2],
            shares[-1],
            math.log1p(len(_NUMBER.findall(text)) * scale),
            math.log1p(len(_QUANTITY.findall(text)) * scale),
            math.log1p(len(_TURN.findall(text)) * scale),
            math.log1p(size / max(len(lines) * scale, 1.0)),
            math.log1p(len(lines[0])),
            max(min(len(line) - len(line.lstrip(" ")), 40) for line in lines),
            *(math.log1p(count * scale) for count in keywords),
            *_signature(text),
            math.log1p(len(identifiers) * scale),
            sum(map(len, identifiers)) / max(len(identifiers), 1),
            len(set(identifiers)) / max(len(identifiers), 1),
            float(stripped.endswith("?")),
            float(_ASKS_LIST.search(text) is not None),
            float(_ASKS_STRUCTURE.search(text) is not None),
            float(_ASKS_BRIEF.search(text) is not None),
            float(_ASKS_LONG.search(text) is not None),
            math.log1p(asked_words(text)),
            _KIND_OF.get(first.group().lower(), 0) if first else 0,
            _KIND_OF.get(last_first.group().lower(), 0) if last_first else 0,
            math.log1p(len(last)),
        ],
        dtype=np.float32,
    )


def asked_words(text: str) -> float:
    """The length that a text requests ("in 50 words", "three sentences"), in words; 0 if none.

    Of several lengths, the largest.
    """
    asked = (
        (int(number) if number.isdecimal() else _NUMBERS[number.lower()]) * _UNITS[unit.lower()]
        for number, unit in _ASKED_LENGTH.findall(text)
    )
    return max(asked, default=0.0)


def _last_sentence(text: str) -> str:
    start = 0
    for match in _LAST_SENTENCE.finditer(text):
        start = match.end()
    return text[start:]


def _signature(text: str) -> tuple[float, ...]:
    found = _SIGNATURE.search(text)
    if found is None:
        return (0.0,) * len(_SIGNATURE_NAMES)
    name, inside = found.groups()
    parameters = [p.strip() for p in inside.split(",") if p.strip()]
    return (
        1.0,
        float(len(parameters)),
        float(sum("=" in p for p in parameters)),
        float(bool(parameters) and parameters[0] in ("self", "cls")),
        float(len([piece for piece in name.split("_") if piece])),
        float(name.startswith("_")),
        float(name.startswith("test")),
        float(text.lstrip().startswith("@")),
    )
