"""What can be asked of the base model: each task's phrasings and the answer for a clip.

The last phrasing of each task is never trained on; the evaluation asks with it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from training.pretrain.synth import Record
from training.pretrain.wording import numbers_in

NO_SPEECH = "no speech"
SPELLED = 60  # characters of the longest spelling, about thirty letters


@dataclass(frozen=True)
class Task:
    """A question about a clip; `answer` is None where the clip says nothing about it."""

    name: str
    share: float  # of all training presentations
    phrasings: tuple[str, ...]
    answer: Callable[[Record], str | None]

    def prompt(self, rng: random.Random) -> str:
        """Draw a trained phrasing, at times in lower case or without its full stop."""
        text = rng.choice(self.phrasings[:-1])
        text = text.lower() if rng.random() < 0.15 else text
        return text.rstrip(".") if rng.random() < 0.15 else text


def _transcript(clip: Record) -> str | None:
    if clip.kind != "speech":
        return NO_SPEECH
    return clip.text if clip.language == "en" else None


def _numbers(clip: Record) -> str | None:
    text = _transcript(clip)
    return numbers_in(text) if text and text != NO_SPEECH else text


def _intent(clip: Record) -> str | None:
    text = _transcript(clip)
    return str(clip.frame["intent"]) if text and text != NO_SPEECH else text


def _english(clip: Record) -> str | None:
    return ("yes" if clip.language == "en" else "no") if clip.kind == "speech" else NO_SPEECH


def _gender(clip: Record) -> str | None:
    return clip.gender if clip.kind == "speech" else NO_SPEECH


def _spelling(clip: Record) -> str | None:
    text = _transcript(clip)
    if text is None or text == NO_SPEECH:
        return text
    letters = ", ".join(" ".join(word.replace("'", "")) for word in text.split())
    return letters if len(letters) <= SPELLED else None


def _sound(clip: Record) -> str | None:
    return "speech" if clip.kind == "speech" else clip.text


TASKS = (
    Task("transcribe", 0.70, (
        "Transcribe the audio.", "Transcribe this audio.", "Transcribe the speech.",
        "What is said in this recording?", "What does the person say?", "Write down what you hear.",
        "Please transcribe the audio to text.", "Convert the speech to text.", "What did they say?",
        "Transcribe the audio into English text.", "Give me the transcript.", "Transcribe.",
        "What is the speaker saying?", "Please write the words that are spoken.",
        "Write out the spoken words of this clip.",
    ), _transcript),
    Task("numbers", 0.08, (
        "Write only the numbers that are said, in digits.", "Which numbers are said?",
        "Give only the digits.", "Only the numbers, please.", "What numbers do you hear?",
        "Write the digits you hear and nothing else.", "List the numbers in the audio.",
        "Extract the numbers.", "Note down just the numbers from this clip.",
    ), _numbers),
    Task("intent", 0.07, (
        "What is the intent of this command?", "Which command is this? Answer with its label.",
        "Classify the spoken command.", "Give the intent label.", "What does the speaker want?",
        "Name the intent.", "Detect the intent of the speaker.", "Intent?",
        "Label the command in this recording.",
    ), _intent),
    Task("spell", 0.06, (
        "Spell the words.", "Spell what you hear.", "Spell out the words letter by letter.",
        "How is this spelled?", "Give the letters of each word.", "Spell it.",
        "Please spell what was said.",
    ), _spelling),
    Task("english", 0.03, (
        "Is this English?", "Is the speech in English? Answer yes or no.", "English or not?",
        "Is the speaker speaking English?", "Does the person speak English?",
        "Tell me whether English is spoken here.",
    ), _english),
    Task("gender", 0.03, (
        "Is the speaker male or female?", "What is the gender of the speaker?",
        "Is this a man or a woman? Answer male or female.", "Speaker gender?",
        "Classify the gender of the voice.", "Male or female voice?",
    ), _gender),
    Task("sound", 0.03, (
        "What sound is this?", "What do you hear?", "Which sound is in the audio?",
        "Classify the sound.", "What kind of sound is it?", "Name the sound in this clip.",
    ), _sound),
)  # fmt: skip
BY_NAME = {task.name: task for task in TASKS}


def draw(clip: Record, rng: random.Random) -> tuple[str, str]:
    """Draw a prompt that the clip can answer, and its answer."""
    while True:
        task = rng.choices(TASKS, [task.share for task in TASKS])[0]
        answer = task.answer(clip)
        if answer is not None:
            return task.prompt(rng), answer
