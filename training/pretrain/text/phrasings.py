"""Prompts put together from parts, so that no list of them can be learnt by heart."""

import random

_BEFORE = (
    "Listen to this.", "Here is a clip.", "This is a recording of someone.", "You get an audio file.",
    "Audio attached.",
    "Somebody sent me this.", "A friend left me a message.", "One more thing.", "New recording.",
    "Good morning.", "Hi.", "Now the next one.", "I am in a meeting.",
)  # fmt: skip
_ASKED = ("could you {}?", "can you {}?", "would you {}?", "will you {} for me?", "can you please {}?")
_TOLD = (
    "{}.", "{}.", "{}.", "please {}.", "{}, please.", "kindly {}.", "now {}.", "I want you to {}.",
    "I'd like you to {}.",
    "your task: {}.", "you should {}.", "{} for me.", "just {}.", "I need you to {}.", "help me and {}.", "try to {}.",
)  # fmt: skip
_WONDERED = ("{}?", "{}?", "{}?", "tell me, {}?", "do you know, {}?", "question: {}?", "so, {}?", "{}, please?")
_AFTER = ("Thanks.", "Be exact.", "Only the answer, please.", "Nothing else.", "Answer briefly.", "No comment.")
_CLIPS = (
    "this clip", "the recording", "this audio", "the audio", "this message", "the voice message", "the file",
    "this sound file", "this recording", "the clip", "it", "this",
)  # fmt: skip
_WORDS = ("what is said", "what they say", "what the person says", "what you hear", "the words", "the sentence")

_TELL: dict[str, tuple[str, ...]] = {
    "transcribe": (
        "write down what is said in {clip}", "write the words of {clip}", "turn {clip} into text", "write {words}",
        "give me the text of {clip}", "type out {clip}", "transcribe {clip}", "make a transcript of {clip}",
        "tell me what they say in {clip}", "repeat the words of {clip}", "note {words} word for word",
        "put {words} on paper", "give me {words} in writing", "show me {words} as text", "caption {clip}",
        "let me read what {clip} says", "take {clip} down in words",
    ),
    "numbers": (
        "write only the numbers of {clip}", "list every number in {clip}", "give me the digits in {clip}",
        "pick the numbers out of {clip}", "keep nothing but the numbers", "extract all figures from {clip}",
        "tell me the numbers that are mentioned", "note every figure that is said in {clip}",
        "ignore the words and write the numbers", "collect the numbers from {clip}", "find the numbers in {clip}",
        "leave everything away but the numbers", "answer with the numbers alone",
        "copy the figures of {clip} in digits",
    ),
    "intent": (
        "name the intent of {clip}", "label {clip} with its intent", "classify the command in {clip}",
        "tell me the label of this command", "say which command is given in {clip}", "find the intent behind {clip}",
        "give the intent as one label", "assign an intent to {clip}", "determine which command {clip} holds",
    ),
    "spell": (
        "spell {clip}", "spell out {words}", "write {words} letter by letter", "give the single letters of the words",
        "write every word as letters", "spell {words} for me", "separate the words into letters",
        "break {words} down into letters", "name the letters of {words}", "say each word in letters",
    ),
    "english": (
        "tell me if {clip} is in English", "check whether {clip} is English", "decide if the speaker uses English",
        "say yes if {clip} is English and no if not", "find out whether this is English",
        "judge if it is English or not",
        "answer yes or no, is {clip} in English", "tell me yes or no: English", "see if the person speaks English",
    ),
    "gender": (
        "tell me if a man or a woman speaks in {clip}", "say whether the voice is male or female",
        "name the gender of the speaker", "decide between male and female", "tell the speaker's gender",
        "identify if the speaker of {clip} is a man or a woman", "say if the voice in {clip} is a man's or a woman's",
    ),
    "sound": (
        "name what sounds in {clip}", "tell me what kind of sound {clip} is", "classify the noise in {clip}",
        "say what makes the sound in {clip}", "identify the noise of {clip}", "label {clip} with its sound",
    ),
}  # fmt: skip
_WONDER: dict[str, tuple[str, ...]] = {
    "transcribe": (
        "what is said in {clip}", "what does {clip} say", "what do they say", "which words are in {clip}",
        "what was that", "what did he say", "what did she say", "what are the words of {clip}", "what is the message",
        "what does the voice tell me", "what is this person telling us", "how does the sentence go",
    ),
    "numbers": (
        "which numbers are in {clip}", "what numbers are mentioned in {clip}", "which digits do you hear",
        "which figures are said in {clip}", "is there a number in {clip}, and which", "what are the figures",
        "which numbers does the speaker name", "what numbers, in digits",
    ),
    "intent": (
        "what is the intent of {clip}", "which command is given in {clip}", "what kind of request is this",
        "what is the speaker asking for, as a label", "which intent fits {clip}", "what is the label of this command",
    ),
    "spell": (
        "how do you spell {words}", "which letters make up the words", "what are the letters of these words",
        "how is {words} spelled", "how would you spell {clip}",
    ),
    "english": (
        "is {clip} in English", "is this English", "do they speak English in {clip}", "does he speak English",
        "does she speak English", "are these English words", "is the language of {clip} English",
        "did someone speak English", "English or another language, is {clip} English",
        "is that person speaking English",
    ),
    "gender": (
        "is the speaker in {clip} a man or a woman", "is this voice male or female", "what gender has the voice",
        "who speaks in {clip}, a man or a woman", "what is the speaker's gender", "male or female, which is it",
    ),
    "sound": (
        "what sound is in {clip}", "what kind of noise is this", "is {clip} speech or another sound",
        "which sound is it",
        "what makes that noise",
    ),
}  # fmt: skip


def compose(task: str, rng: random.Random) -> str:
    """Put a prompt for the task together."""
    told = rng.random() < 0.6
    core = rng.choice((_TELL if told else _WONDER)[task])
    core = core.replace("{clip}", rng.choice(_CLIPS)).replace("{words}", rng.choice(_WORDS))
    frames = _WONDERED if not told else _ASKED if rng.random() < 0.25 else _TOLD
    parts = [rng.choice(_BEFORE)] if rng.random() < 0.2 else []
    parts.append(_capital(rng.choice(frames).format(core)))
    if rng.random() < 0.12:
        parts.append(rng.choice(_AFTER))
    return " ".join(parts)


def _capital(text: str) -> str:
    """Begin with a capital."""
    return text[:1].upper() + text[1:]
