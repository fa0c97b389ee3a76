"""Words and numbers: how text is written in every answer of `overtone-tiny`.

A transcript is lower-case words separated by single spaces, apostrophes kept, no other
punctuation, numbers spelled out ("press one to accept"). Everything that compares text goes
through `normalise`, so that training, scoring and the peer model follow one convention.
"""

import re

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NATO = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz",
        [
            "alpha",
            "bravo",
            "charlie",
            "delta",
            "echo",
            "foxtrot",
            "golf",
            "hotel",
            "india",
            "juliet",
            "kilo",
            "lima",
            "mike",
            "november",
            "oscar",
            "papa",
            "quebec",
            "romeo",
            "sierra",
            "tango",
            "uniform",
            "victor",
            "whiskey",
            "xray",
            "yankee",
            "zulu",
        ],
        strict=True,
    )
)
_SMALL = {word: value for value, word in enumerate(DIGITS + TEENS)} | {
    word: 10 * value for value, word in enumerate(TENS, start=2)
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_SHORT = {"mr": "mister", "mrs": "missus", "dr": "doctor"}
_NOT_WORDS = re.compile(r"[^a-z' ]+")


def say_number(value: int) -> str:
    """Spell a number from 0 to 999,999 the way it is spoken: 4242 -> four thousand two hundred …"""
    if value < 20:
        return (DIGITS + TEENS)[value]
    if value < 100:
        rest = f" {DIGITS[value % 10]}" if value % 10 else ""
        return TENS[value // 10 - 2] + rest
    scale, name = (1000, "thousand") if value >= 1000 else (100, "hundred")
    rest = f" {say_number(value % scale)}" if value % scale else ""
    return f"{say_number(value // scale)} {name}{rest}"


def normalise(text: str, digits_apart: bool = False) -> str:
    """Bring any spelling to the transcript convention: lower case, words only, numbers spoken.

    A figure such as 2934 is read as one number, or digit by digit with `digits_apart`.
    """
    text = text.lower().replace("’", "'").replace("-", " ")
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    figure = r"\d" if digits_apart else r"\d{1,6}"
    text = re.sub(figure, lambda found: f" {say_number(int(found[0]))} ", text)
    text = _NOT_WORDS.sub(" ", text)
    words = (_SHORT.get(word, word.strip("'")) for word in text.split())
    return " ".join(word for word in words if word)


def numbers_in(transcript: str) -> str:
    """Write the numbers of a transcript in digits, separated by spaces; "none" without any.

    Units, tens and scales of one number are joined ("twenty five" -> 25, "two hundred" -> 200);
    digits read one after another stay apart ("five five" -> 5 5).
    """
    found: list[str] = []
    total, tail = 0, -1  # tail: the last small number's value, -1 outside a number
    for word in [*transcript.split(), ""]:
        if word in _SCALES and tail >= 0:
            total, tail = (total * _SCALES[word] if total else _SCALES[word]), 100
        elif word in _SMALL and tail >= 20 and 0 < _SMALL[word] < (10 if tail < 100 else 100):
            total, tail = total + _SMALL[word], _SMALL[word]
        else:
            if tail >= 0:
                found.append(str(total))
            total, tail = (_SMALL[word], _SMALL[word]) if word in _SMALL else (0, -1)
    return " ".join(found) or "none"


def spell_nato(transcript: str) -> str:
    """Spell a transcript in the NATO alphabet, a comma between words: "go on" -> golf oscar, …"""
    words = (re.sub("[^a-z]", "", word) for word in transcript.split())
    return ", ".join(" ".join(NATO[letter] for letter in word) for word in words if word)


def edits(reference: list[str], hypothesis: list[str]) -> int:
    """Count the word insertions, deletions and substitutions (Levenshtein) between two texts."""
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, heard in enumerate(hypothesis, start=1):
            best = min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != heard))
            diagonal, row[j] = row[j], best
    return row[-1]
