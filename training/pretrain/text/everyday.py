"""Lines that people say to a microphone when they try one: greetings, questions, requests, small talk, dictation.

Templates of this project's own; a slot is filled from its list, and two sayings may follow one another.
"""

import random
import re

_SLOTS: dict[str, tuple[str, ...]] = {
    "hello": (
        "hello", "hi", "hey", "good morning", "good afternoon", "good evening", "hi there", "hello there", "hey there",
        "good night", "hello everyone", "hi everybody", "hello again", "greetings", "howdy", "morning",
    ),
    "name": (
        "john", "mary", "peter", "anna", "david", "sarah", "tom", "lucy", "james", "emma", "michael", "julia", "ben",
        "kate", "alex", "sam", "jack", "lisa", "robert", "laura", "daniel", "maria", "george", "helen", "oliver",
    ),
    "who": ("he", "she", "they", "we", "you", "i", "my mother", "my brother", "the boss", "everybody", "nobody",
            "the children", "that man", "this woman", "our teacher", "your friend", "the doctor", "the neighbours"),
    "be": ("is", "was", "will be", "must be", "can't be", "might be", "has been", "isn't", "wasn't", "won't be"),
    "how": (
        "good", "fine", "great", "very nice", "really bad", "tired", "hungry", "happy", "sad", "late", "early", "ready",
        "busy", "sick", "angry", "cold", "hot", "wet", "lost", "right", "wrong", "sure", "here", "there", "at home",
        "at work", "on the way", "upstairs", "outside", "asleep", "awake", "over there", "in trouble", "so funny",
        "beautiful", "terrible", "wonderful", "strange", "quiet", "loud", "expensive", "cheap", "broken", "open",
        "closed", "full", "empty", "easy", "difficult", "dangerous", "important", "perfect", "amazing", "boring",
    ),
    "thing": (
        "the car", "the door", "my phone", "your keys", "the window", "a book", "the dog", "the cat", "some water",
        "a cup of tea", "a cup of coffee", "the bill", "the news", "the weather", "dinner", "lunch", "breakfast",
        "the train", "the bus", "a taxi", "the meeting", "my bag", "the light", "the music", "this song", "the game",
        "a ticket", "the letter", "your name", "my coat", "the house", "the garden", "some bread", "the money",
        "the answer", "a question", "the picture", "the paper", "a pen", "the computer", "the radio", "an apple",
        "the key", "the table", "a chair", "my glasses", "her hat", "his shoes", "the box", "the bottle", "the road",
    ),
    "do": (
        "see", "take", "find", "bring", "hold", "open", "close", "leave", "forget", "like", "want", "need", "buy",
        "sell", "read", "write", "clean", "fix", "break", "carry", "move", "watch", "hear", "remember", "keep", "lose",
        "try", "use", "make", "show me", "give me", "tell me about", "look at", "listen to", "wait for", "ask for",
        "pay for", "talk about", "think about", "turn off", "turn on", "pick up", "put down", "throw away",
    ),
    "go": (
        "go", "come", "leave", "stay", "wait", "start", "stop", "run", "walk", "sleep", "eat", "drink", "sing", "dance",
        "swim", "drive", "fly", "work", "play", "rest", "sit down", "stand up", "get up", "go home", "come back",
        "come in", "go away", "hurry up", "slow down", "calm down", "wake up", "shut up", "look out", "come on",
        "hold on", "hang on", "keep going", "give up", "try again", "say that again", "be quiet", "be careful",
    ),
    "where": (
        "home", "to work", "to school", "to bed", "outside", "to the shop", "to the beach", "to the station", "there",
        "to the doctor", "to town", "upstairs", "with me", "with us", "without me", "together", "alone", "by train",
        "to london", "to america", "to the park", "to the airport", "into the kitchen", "down the road", "this way",
    ),
    "when": (
        "now", "today", "tomorrow", "tonight", "yesterday", "this morning", "this evening", "later", "soon", "again",
        "next week", "last night", "on monday", "at the weekend", "in the summer", "right now", "in a minute",
        "every day", "at noon", "at five o'clock", "before dinner", "after work", "all day", "for a while", "already",
    ),
    "then": ("then", "please", "now", "okay", "you know", "i think", "thanks", "my friend", "sir", "at last", "too"),
    "yes": (
        "yes", "no", "yeah", "yep", "nope", "okay", "all right", "of course", "sure", "maybe", "perhaps", "exactly",
        "never", "always", "really", "oh", "well", "right", "oh no", "oh yes", "not at all", "i see", "never mind",
        "no way", "why not", "i guess so", "absolutely", "certainly", "no thanks", "yes please", "no problem",
        "oh dear",
        "oh well", "thank you", "thanks", "thank you very much", "thanks a lot", "you're welcome", "sorry", "excuse me",
        "i'm sorry", "pardon", "please", "cheers", "congratulations", "good luck", "happy birthday", "merry christmas",
        "bless you", "goodbye", "bye", "bye bye", "see you", "see you later", "see you tomorrow", "take care",
        "have a nice day", "good for you", "well done", "good job", "what a pity", "i don't know", "i have no idea",
        "let's go", "here we go", "there you are", "here you are", "that's it", "that's right", "that's enough",
        "what", "who", "where", "when", "why", "how", "wow", "hmm", "uh", "um", "ah", "ha ha", "ouch", "help",
    ),
    "ask": ("what", "when", "where", "why", "how", "who", "which one", "how much", "how many", "how long", "how far"),
    "test": (
        "testing", "test", "this is a test", "testing one two three", "one two three", "check", "mic check",
        "can you hear me", "is this thing on", "is it working", "does this work", "are you listening", "hear me",
        "just a test", "let me try this", "i am testing the microphone", "test one two", "sound check",
        "one two three four", "can you understand me", "do you understand what i say", "recording", "start recording",
    ),
    "topic": (
        "the weather", "the time", "your name", "my day", "football", "music", "the news", "holidays", "work",
        "school", "cooking", "the garden", "my family", "computers", "the sea", "animals", "history", "love", "life",
    ),
}  # fmt: skip

_SAYINGS = (
    "{hello}", "{yes}", "{test}", "{hello} {name}", "{yes} {name}", "{go}", "{go} {then}", "{yes} {then}",
    "{hello} my name is {name}", "my name is {name}", "i am {name}", "this is {name} speaking", "how are you",
    "how are you {when}", "how are you doing", "how do you do", "nice to meet you", "what's your name",
    "what is your name",
    "where are you from", "how old are you", "what time is it", "what day is it {when}",
    "what's the time", "what's going on", "what's that", "what is this", "what's up", "who is that", "who are you",
    "where are you", "where is {thing}", "where did you {do} it", "when did {who} {go}", "why did {who} {go}",
    "do you {do} {thing}", "did you {do} {thing} {when}", "can you {do} {thing}", "could you {do} {thing} please",
    "can i {do} {thing}", "may i {do} {thing}", "will you {go} {when}", "would you like {thing}", "do you want {thing}",
    "i want {thing}", "i need {thing} {when}", "i'd like {thing} please", "i don't {do} {thing}",
    "i can't {do} {thing}",
    "i'll {do} {thing} {when}", "i have to {go} {when}", "i'm going {where}", "let's {go} {when}", "let's go {where}",
    "don't {do} {thing}", "please {do} {thing}", "{do} {thing}", "{do} it {when}", "{do} it {then}", "don't {go}",
    "please {go}", "{go} {when}", "go {where}", "come {where}", "come {where} {then}", "{who} {be} {how}",
    "{be} it {how}",
    "it {be} {how}", "that {be} {how}", "{thing} {be} {how}", "{who} {be} {how} {when}", "is {thing} {how}",
    "i'm {how}", "you're {how}", "we're {how} {when}", "they're {how}", "he's {how}", "she's {how}", "are you {how}",
    "i think {thing} {be} {how}", "i hope it {be} {how}", "i know", "i like {thing}", "i love you", "i love {thing}",
    "i hate {thing}", "i was {how} {when}", "what do you think", "what do you mean", "what did you say",
    "what are you doing {when}", "what shall we do {when}", "what happened", "{ask}", "{ask} is it", "{ask} is that",
    "tell me about {topic}", "tell me a joke", "talk to me about {topic}", "let me talk about {topic}",
    "{test}", "{hello} {test}", "{test} {test}", "the quick brown fox jumps over the lazy dog",
    "she sells sea shells by the sea shore", "how much wood would a woodchuck chuck",
    "i would like to {do} {thing} and then {go} {where}", "{when} i want to {do} {thing}", "{who} never {do} {thing}",
    "if you {do} {thing} i will {go}", "because {who} {be} {how}", "{who} said that {thing} {be} {how}",
    "give me {thing}", "give it to me", "show me {thing}", "look at {thing}", "look at that", "listen to me",
    "remind me to {do} {thing} {when}", "send it to {name}", "call {name} {when}", "ask {name} about {topic}",
    "{name} {be} {how}", "{name} and {name} {be} {how}", "where's {name}", "is {name} {how}", "{name} come here",
    "not {when}", "not {how}", "very {how}", "so {how}", "too {how}", "{how}", "{thing}", "{when}", "{who}", "{name}",
    "two of them", "three times", "number {how}", "at least once", "one more time", "first of all", "by the way",
)  # fmt: skip

_SLOT = re.compile(r"\{(\w+)\}")


def saying(rng: random.Random) -> str:
    """Draw one saying; three in ten times another one follows."""
    text = _one(rng)
    return f"{text} {_one(rng)}" if rng.random() < 0.3 else text


def _one(rng: random.Random) -> str:
    """Fill a template's slots."""
    return _SLOT.sub(lambda slot: rng.choice(_SLOTS[slot[1]]), rng.choice(_SAYINGS))
