"""The two families of apps in the corpus of P1 to P3."""

from typing import Final

PROPORTIONAL: Final = (
    "bug_fix",
    "detox",
    "grammar",
    "java_to_csharp",
    "summarise_dialogue",
    "translate_de_en",
    "translate_en_cs",
)  # Pearson r of input and output length ≥ 0.75
OPEN_ENDED: Final = (
    "assistant",
    "assistant_gpt4",
    "code_comment",
    "code_gen",
    "doctor_chat",
    "math_steps",
    "staff_qa",
)  # r < 0.5
FAMILIES: Final = {"proportional": PROPORTIONAL, "open": OPEN_ENDED}
