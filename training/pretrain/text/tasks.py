"""The tasks of the base model: each task's phrasings and the answer for a clip.

The last phrasing of each task is never trained on; the evaluation asks with it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from training.pretrain.speech.synthesis import Record
from training.pretrain.text import phrasings
from training.pretrain.text.wording import numbers_in

NO_SPEECH = "no speech"
DEFAULT_SHARE = 0.15  # of a task's prompts: its first phrasing, which services ask by default
COMPOSED_SHARE = 0.4  # of a task's prompts: put together from parts
DULL = {"numbers": "none", "intent": "other"}  # answers that most clips have: mostly another question is drawn
DULL_KEPT = 0.3
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
        kind = rng.random()
        if kind < DEFAULT_SHARE:
            text = self.phrasings[0]
        elif kind < DEFAULT_SHARE + COMPOSED_SHARE:
            text = phrasings.compose(self.name, rng)
        else:
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
    Task("transcribe", 0.60, (
        "Transcribe the audio.", "Transcribe this audio.", "Transcribe the speech.",
        "What is said in this recording?", "What does the person say?", "Write down what you hear.",
        "Please transcribe the audio to text.", "Convert the speech to text.", "What did they say?",
        "Transcribe the audio into English text.", "Give me the transcript.", "Transcribe.",
        "What is the speaker saying?", "Please write the words that are spoken.",
        "Transcribe the recording.", "Transcribe what is said.", "Transcribe this clip word for word.",
        "Please transcribe this recording.", "Provide a transcription of the audio.",
        "Generate a transcript of this audio.", "Write a transcript of the speech.",
        "Turn this speech into text.", "Type what the speaker says.", "What words are spoken here?",
        "Write the spoken words.", "Speech to text.", "What was said?", "Write exactly what is said.",
        "Give the words that are said.", "Please provide the transcript.", "Transcript, please.", "What's being said?",
        "Write the sentence that you hear.", "Output the spoken text.", "Return the transcript of this recording.",
        "Listen and write what is said.", "Tell me what the speaker says.", "What does the recording say?",
        "Take this down.", "Put the speech into writing.", "Repeat what you hear in writing.", "Caption this audio.",
        "Write out the spoken words of this clip.",
    ), _transcript),
    Task("numbers", 0.11, (
        "Write only the numbers that are said, in digits.", "Which numbers are said?",
        "Give only the digits.", "Only the numbers, please.", "What numbers do you hear?",
        "Write the digits you hear and nothing else.", "List the numbers in the audio.",
        "Extract the numbers.", "Tell me just the numbers.", "Note the numbers in digits.",
        "Which number is spoken?", "Write down every number that is said.", "Numbers only.",
        "What are the numbers in this recording?", "Give me the numbers as digits.",
        "Note down the numbers that you hear.", "Pick out just the numbers.",
        "Are there any numbers in this clip? Write them in digits.",
        "Only digits.", "Reply with the numbers only.", "Say which numbers occur.", "Just the digits, nothing else.",
        "Leave out the words and keep the numbers.", "Return the numbers spoken in the audio.",
        "Do you hear any numbers? Give them in digits.", "Digits only, please.", "Pull the numbers out of this audio.",
        "Answer with digits: which numbers are mentioned?", "Numbers mentioned?", "What digits does the speaker say?",
        "Note down just the numbers from this clip.",
    ), _numbers),
    Task("intent", 0.07, (
        "What is the intent of this command?", "Which command is this? Answer with its label.",
        "Classify the spoken command.", "Give the intent label.", "What does the speaker want?",
        "Name the intent.", "Detect the intent of the speaker.", "Intent?",
        "Which intent does this command have?", "Tell me the intent of the command.",
        "Label the intent.", "Classify the intent of this recording.", "What kind of command is this?",
        "Assign a label to the spoken command.", "What is the person asking for? Give the label.",
        "Say what the command asks for, as a label.", "Intent label, please.", "Which action is requested?",
        "Determine the intent of this speech.", "Return the intent.", "What intent is expressed in this recording?",
        "Categorise this voice command.", "Recognise the command and name its intent.", "What is to be done?",
        "Find the command's label.", "Label the command in this recording.",
    ), _intent),
    Task("spell", 0.06, (
        "Spell the words.", "Spell what you hear.", "Spell out the words letter by letter.",
        "How is this spelled?", "Give the letters of each word.", "Spell it.",
        "Spell this.", "Write the words letter by letter.", "Spell what the speaker says.",
        "Please spell the words that you hear.", "How do you spell that?", "Spell each word.",
        "Give me the spelling.", "Write every word as single letters.", "Spell the spoken words.",
        "Spell out what is said.", "Write what you hear letter by letter.", "Give each word in letters.",
        "Spell the sentence.", "Please spell it out.", "Answer with the letters of the words.", "Spell the recording.",
        "Break the words into letters.", "Letters of what was said, please.", "Spell every word that you hear.",
        "Letter by letter, what is said?", "Please spell what was said.",
    ), _spelling),
    Task("english", 0.08, (
        "Is this English?", "Is the speech in English? Answer yes or no.", "English or not?",
        "Is the speaker speaking English?", "Does the person speak English?",
        "Is English spoken in this recording?", "Is it English?", "Is that English?",
        "Is the language English?", "Is the language of this clip English?", "Do you hear English?",
        "Can you tell me if this is English?", "Tell me if the speech is English.",
        "Tell me whether this is English.", "Tell me if English is spoken.",
        "Say whether the language is English.", "Say yes if this is English, otherwise no.",
        "Check whether the speech is English.", "Decide whether this is English or another language.",
        "Are they speaking English?", "Whether it is English or not, yes or no?",
        "Find out if the person speaks English here.", "I want to know whether the recording is English.",
        "Answer yes or no: is this English?", "Is somebody speaking English here?",
        "English, yes or no?", "Is the spoken language English?", "Does this sound like English to you?",
        "Could you check if it is English?", "Yes or no: English?", "Would you say this is English?",
        "Is this person talking in English?", "Confirm whether the speech is in English.",
        "Tell me whether English is spoken here.",
    ), _english),
    Task("gender", 0.04, (
        "Is the speaker male or female?", "What is the gender of the speaker?",
        "Is this a man or a woman? Answer male or female.", "Speaker gender?",
        "Classify the gender of the voice.", "Is the voice male or female?", "Male or female?",
        "Tell me the gender of the speaker.", "Is a man or a woman speaking?",
        "Does this voice belong to a man or a woman?", "What gender is the speaker?",
        "Name the speaker's gender.", "Is it a male voice or a female voice?",
        "Decide whether the speaker is male or female.", "Gender of the voice?",
        "Does a woman speak, or a man? Say male or female.", "Guess the gender of the person talking.",
        "Who speaks, a male or a female?", "Man's voice or woman's voice? Answer male or female.",
        "Determine the speaker's gender.", "Is it a man's voice or a woman's?", "Say male or female.", "Gender?",
        "Identify the gender of the voice.", "State whether the speaker is male or female.",
        "Tell me whether a man or a woman is speaking.", "Male or female voice?",
    ), _gender),
    Task("sound", 0.04, (
        "What sound is this?", "What do you hear?", "Which sound is in the audio?",
        "Classify the sound.", "What kind of sound is it?", "What is that sound?",
        "Which kind of sound do you hear?", "Tell me what sound this is.", "Name the sound.",
        "Identify the sound.", "Recognise the sound in this recording.", "Label this sound.",
        "What can be heard?", "What makes this sound?", "What type of sound is in this recording?",
        "Speech or another sound? Name it.", "Tell me the kind of sound.", "What is making this noise?",
        "Describe the sound in a word.", "Is it speech or some other sound?", "Say what the sound is.",
        "Is this speech, music or something else?", "Name the sound in this clip.",
    ), _sound),
)  # fmt: skip
BY_NAME = {task.name: task for task in TASKS}


def draw(clip: Record, rng: random.Random) -> tuple[str, str]:
    """Draw a prompt that the clip can answer, and its answer."""
    while True:
        task = rng.choices(TASKS, [task.share for task in TASKS])[0]
        answer = task.answer(clip)
        dull = answer is not None and answer == DULL.get(task.name)
        if answer is not None and not (dull and rng.random() > DULL_KEPT):
            return task.prompt(rng), answer
