"""The words the demo model knows, and Velan, the small language it translates into."""

from random import Random
from typing import Final

NOUNS: Final = (
    "king queen river bridge castle forest garden tower horse eagle wolf sailor doctor farmer "
    "baker teacher window door letter lamp table mirror candle basket bottle hammer ladder "
    "island valley desert harbor market temple village wagon blanket button pillow silver "
    "copper marble thunder winter summer autumn morning evening shadow dragon rabbit turtle "
    "lizard pigeon salmon spider camel goat"
).split()
VERBS: Final = (
    "finds follows carries watches builds paints opens closes guards visits leaves enters "
    "crosses climbs breaks mends sells buys hides steals throws catches cleans covers draws "
    "feeds greets hears helps holds keeps knows lifts likes loves meets moves needs pulls reads"
).split()
ADJECTIVES: Final = (
    "brave young old hidden golden broken quiet loud heavy gentle bitter sweet clever foolish "
    "proud humble distant narrow wide hollow ancient modern frozen burning empty crowded "
    "bright dark sharp smooth rough dusty muddy rusty lonely jolly"
).split()
NAMES: Final = (
    "anna boris clara david elena felix greta henry irene jonas karin lukas maria nadia oscar "
    "paula quinn rosa simon tanya ursula victor wanda xavier yusuf zelda"
).split()
VARIABLES: Final = (
    "total price tax count width height speed weight score rate limit offset index length "
    "balance bonus depth angle margin ratio"
).split()
OPERATORS: Final = {"+": "plus", "-": "minus", "*": "times", "/": "over"}
UNITS: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety".split()

WORDS: Final = (*NOUNS, *VERBS, *ADJECTIVES)


def _velan() -> dict[str, str]:
    """One invented word of two syllables for each English word, always the same."""
    onsets, vowels, codas = "bdfgklmnprstvz", "aeiou", ("", "n", "r", "s", "l")
    syllables = [o + v for o in onsets for v in vowels]
    taken = {*WORDS, *NAMES, *VARIABLES, *UNITS, *TENS}
    pool = sorted({a + b + c for a in syllables for b in syllables for c in codas} - taken)
    return dict(zip(WORDS, Random(7).sample(pool, len(WORDS)), strict=True))


VELAN: Final = _velan()


def spoken(number: int) -> str:
    """0 … 99 in English words: 47 is `forty seven`."""
    if number < len(UNITS):
        return UNITS[number]
    tens, unit = divmod(number, 10)
    return TENS[tens - 2] if unit == 0 else f"{TENS[tens - 2]} {UNITS[unit]}"
