"""A generated corpus: numbers, dates and times of day in German and English words.

A translation task in earnest, made on the fly: German puts the ones before the tens ("drei und
zwanzig", twenty three), counts half hours towards the next hour ("halb drei", half past two) and
declines; none of it can be had by translating word by word. German compounds are cut into their
parts, marked as byte-pair encodings mark them.
"""

from collections.abc import Callable

import numpy as np

from tasks.task import stream

NAME = "numbers"
SIZES = {"train": 20_000, "valid": 200, "test": 200}

# fmt: off
_DE = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf", "dreizehn", "vierzehn", "fünfzehn", "sechzehn", "siebzehn", "achtzehn", "neunzehn"]
_EN = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_DE_TENS = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]
_EN_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_DE_ORDINALS = ["ersten", "zweiten", "dritten", "vierten", "fünften", "sechsten", "siebten", "achten", "neunten", "zehnten", "elften", "zwölften", "dreizehnten", "vierzehnten", "fünfzehnten", "sechzehnten", "siebzehnten", "achtzehnten", "neunzehnten"]
_EN_ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth"]
_DE_MONTHS = ["Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober", "November", "Dezember"]
_EN_MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
_DE_DAYS = ["Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag", "Sonntag"]
_EN_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
# fmt: on


def german(n: int) -> list[str]:
    """The parts of the word for n, from 0 to 999,999."""
    *front, last = _german(n)
    return [*("ein" if part == "eins" else part for part in front), last]


def english(n: int) -> list[str]:
    """The words for n, from 0 to 999,999."""
    if n < 20:
        return [_EN[n]]
    if n < 100:
        return [_EN_TENS[n // 10 - 2], *([_EN[n % 10]] if n % 10 else [])]
    if n < 1000:
        return [_EN[n // 100], "hundred", *(["and", *english(n % 100)] if n % 100 else [])]
    rest = n % 1000
    small = ["and"] if 0 < rest < 100 else []
    return [*english(n // 1000), "thousand", *small, *(english(rest) if rest else [])]


def sentences(split: str) -> tuple[list[str], list[str]]:
    """Pairs of a split, all different and none of them in another split."""
    random = stream(0, f"{NAME} {split}")
    held_out = set() if split != "train" else {
        line for other in ("valid", "test") for line in sentences(other)[0]
    }  # fmt: skip
    if split == "test":
        held_out = set(sentences("valid")[0])
    found: dict[str, str] = {}
    while len(found) < SIZES[split]:
        source, target = _sentence(random)
        if source not in held_out:
            found[source] = target
    return list(found), list(found.values())


def _german(n: int) -> list[str]:
    if n < 20:
        return [_DE[n]]
    if n < 100:
        ones = [_DE[n % 10], "und"] if n % 10 else []
        return [*ones, _DE_TENS[n // 10 - 2]]
    if n < 1000:
        return [_DE[n // 100], "hundert", *(_german(n % 100) if n % 100 else [])]
    return [*_german(n // 1000), "tausend", *(_german(n % 1000) if n % 1000 else [])]


def _compound(parts: list[str]) -> str:
    """One word, in its parts."""
    return " ".join([*(f"{part}@@" for part in parts[:-1]), parts[-1]])


def _number(random: np.random.Generator) -> tuple[str, str]:
    n = int(random.integers(0, 10 ** int(random.integers(2, 7))))
    return _compound(german(n)), " ".join(english(n))


def _date(random: np.random.Generator) -> tuple[str, str]:
    day, month = int(random.integers(1, 32)), int(random.integers(12))
    year = int(random.integers(1101, 2000))
    century, rest = divmod(year, 100)
    if day < 20:
        de, en = _DE_ORDINALS[day - 1], _EN_ORDINALS[day - 1]
    else:
        tens = day // 10 - 2
        de = _compound([*german(day), "sten"])
        en = (f"{_EN_TENS[tens]} {_EN_ORDINALS[day % 10 - 1]}" if day % 10
              else ("twentieth", "thirtieth")[tens])  # fmt: skip
    year_de = [*_german(century), "hundert", *(german(rest) if rest else [])]
    year_en = [*english(century), *(english(rest) if rest else ["hundred"])]
    return (f"am {de} {_DE_MONTHS[month]} {_compound(year_de)}",
            f"on the {en} of {_EN_MONTHS[month]} {' '.join(year_en)}")  # fmt: skip


def _time(random: np.random.Generator) -> tuple[str, str]:
    hour, minute = int(random.integers(1, 13)), 5 * int(random.integers(12))
    after = hour % 12 + 1  # the next hour

    def de(n: int) -> str:
        return _compound(german(n))

    spoken = {0: (f"um {'ein' if hour == 1 else de(hour)} Uhr", f"at {_EN[hour]} o'clock"),
              15: (f"um Viertel nach {de(hour)}", f"at a quarter past {_EN[hour]}"),
              30: (f"um halb {de(after)}", f"at half past {_EN[hour]}"),
              45: (f"um Viertel vor {de(after)}", f"at a quarter to {_EN[after]}")}  # fmt: skip
    if minute in spoken:
        return spoken[minute]
    if minute < 30:
        return (
            f"um {de(minute)} nach {de(hour)}",
            f"at {' '.join(english(minute))} past {_EN[hour]}",
        )
    left = 60 - minute
    return f"um {de(left)} vor {de(after)}", f"at {' '.join(english(left))} to {_EN[after]}"


def _day(random: np.random.Generator) -> tuple[str, str]:
    day = int(random.integers(7))
    de, en = _time(random)
    return f"{de} am {_DE_DAYS[day]}", f"{en} on {_EN_DAYS[day]}"


def _sentence(random: np.random.Generator) -> tuple[str, str]:
    kinds: list[Callable[[np.random.Generator], tuple[str, str]]] = [_number, _date, _time, _day]
    kind = kinds[int(random.integers(len(kinds)))]
    (de, en), form = kind(random), int(random.integers(3))
    if form == 0:
        return de, en
    other_de, other_en = kind(random)
    if form == 1 and kind is _number:
        return f"von {de} bis {other_de}", f"from {en} to {other_en}"
    return f"{de} und {other_de}", f"{en} and {other_en}"
