"""Does the answer follow the prompt? The same clips are asked for six tasks, in phrasings that training never saw.

An answer counts as the right task's by its form alone: digits, letters, yes or no, a label, words.
"""

import re
from collections.abc import Callable
from typing import Any

from training.pretrain.evaluation.humans import Human
from training.pretrain.text.commands import PATTERNS
from training.pretrain.text.tasks import BY_NAME

CLIPS = 24
LABELS = {intent for intent, _ in PATTERNS} | {"other"}
PHRASINGS: dict[str, tuple[str, ...]] = {
    "transcribe": ("I can't listen right now, what does it say?", "Note down the sentence you hear."),
    "numbers": ("I only need the figures that come up.", "Skip the words, which numbers come up?"),
    "intent": ("In one label, what does this person want done?", "Sort this utterance by its intent."),
    "spell": ("Dictate the words to me as single letters.", "Go through the words one letter at a time."),
    "english": ("Was that in English?", "Could this language be English? Yes or no."),
    "gender": ("Was that a man or a woman?", "Is it a woman or a man who talks here?"),
}
_FORMS: dict[str, Callable[[str], bool]] = {
    "numbers": lambda text: bool(re.fullmatch(r"none|\d+( \d+)*", text)),
    "intent": lambda text: text in LABELS,
    "spell": lambda text: bool(re.fullmatch(r"[a-z](,? [a-z])+,?", text)),
    "english": lambda text: text in ("yes", "no"),
    "gender": lambda text: text in ("male", "female"),
}


def task_of(text: str) -> str:
    """Name the task that an answer has the form of."""
    return next((name for name, form in _FORMS.items() if form(text)), "transcribe")


def measure(clips: list[Human], answers: Callable[[list[Human], str], list[str]]) -> dict[str, Any]:
    """Share of answers (%) that have the right task's form, per task and together, on short sentences."""
    fit = [clip for clip in clips if 3 <= len(clip.text.split()) <= 7 and len(clip.text.replace(" ", "")) <= 28]
    asked = fit[:: max(1, len(fit) // CLIPS)][:CLIPS]
    found = {}
    for name, phrasings in PHRASINGS.items():
        phrasings = (*phrasings, BY_NAME[name].phrasings[-1])
        right = [task_of(text) == name for phrase in phrasings for text in answers(asked, phrase)]
        found[name] = round(100 * sum(right) / max(len(right), 1), 1)
    return {"clips": len(asked), **found, "all": round(sum(found.values()) / len(found), 1)}
