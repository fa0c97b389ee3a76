"""Short calls and exclamations: what people shout, mutter or try a microphone with, in one to five words."""

import random
import re

_SLOTS: dict[str, tuple[str, ...]] = {
    "go": (
        "go", "run", "stop", "wait", "jump", "move", "hurry", "look", "listen", "hide", "fire", "attack", "retreat",
        "charge", "push", "pull", "catch", "throw", "kick", "shoot", "hit it", "get up", "get down", "get out",
        "get off", "get back", "go on", "go back", "go away", "come on", "come here", "come back", "come in", "hold it",
        "hold on", "hang on", "watch it", "watch out", "look out", "look here", "look at me", "let go",
        "let's go", "move it", "move on", "shut up", "be quiet", "calm down", "slow down", "stand back", "stand up",
        "sit down", "give up", "leave me alone", "follow me", "help me", "save me", "trust me", "forget it", "take it",
        "take cover", "stay here", "stay down", "keep going", "try again", "do it", "don't do it", "don't move",
    ),
    "cry": (
        "help", "fire", "danger", "attention", "victory", "hooray", "hurray", "bravo", "freedom", "murder", "police",
        "thief", "water", "air", "land", "fore", "timber", "bingo", "jackpot", "perfect", "excellent", "amazing",
        "brilliant", "incredible", "fantastic", "great", "super", "wonderful", "beautiful", "awesome", "nice",
        "well done", "good shot", "nice shot", "nice try", "good one", "nice one", "good game", "well played",
        "ouch", "oops", "whoops", "wow", "whoa", "hey", "ho", "yay", "boo", "boom", "bang", "bye", "bye bye", "yes",
        "no", "yeah", "never", "nothing", "nonsense", "rubbish", "idiot", "stupid", "fool",
        "mercy", "peace", "surrender", "ready", "steady", "now", "again", "enough", "too late", "too bad",
        "too slow", "too easy", "so close", "not bad", "not yet", "not again", "not me", "not fair", "no way",
        "no chance", "no mercy", "no thanks", "oh no", "oh yes", "oh dear", "oh boy", "oh my", "my god", "good grief",
        "what", "what now", "what's that", "who's there", "who's next", "where are you", "why me", "why not", "really",
        "seriously", "exactly", "finally", "at last", "of course", "sure", "all right", "okay", "right", "fine",
        "game over", "time's up", "your turn", "my turn", "next", "last one",
        "man down", "got it", "got you", "gotcha", "missed", "you missed",
        "bull's eye", "direct hit", "pathetic", "boring", "easy", "cheater",
        "wrong way", "this way", "over here", "over there", "behind you", "above you",
        "grenade", "bomb", "mine", "gun", "knife", "shield",
    ),
    "say": (
        "i'm ready", "i'm here", "i'm coming", "i'm hit", "i'm hurt", "i'm dead", "i'm fine", "i'm lost", "i'm sorry",
        "i'm so tired", "i got it", "i did it", "i knew it", "i hate you", "i love it", "i like it", "i don't care",
        "i can't see", "i can't believe it", "i can do that", "i told you", "i told you so", "i'll get you",
        "i'll be back", "i won", "we won", "you lose", "you win", "you're next", "you're dead", "you're late",
        "you're the best", "you'll be sorry", "you'll pay for this", "you'll see", "you can do it", "you did it",
        "that hurt", "that's it", "that's mine", "that's not fair", "that's all", "that was close",
        "that was easy", "that was fun", "this is it", "this is mine", "this is fun", "this is boring", "it's over",
        "it's mine", "it's time", "it's a trap", "it's not my fault", "here i come", "here we go", "here you go",
        "there he is", "there you go", "there they are", "they're coming", "he's gone", "she's gone", "what a shot",
        "what a mess", "what a shame", "what a day", "what have you done", "what are you doing", "where did he go",
        "who did that", "how dare you", "how about that", "are you ready", "are you sure", "are you crazy",
        "is that all", "is that it", "take that", "take this", "eat this", "wait for me",
        "wait and see", "let me see", "let me try", "let's do it", "let's do this", "don't worry", "don't shoot",
        "don't leave me", "don't be silly", "never again", "never mind", "not so fast", "see you later", "see you soon",
        "good morning", "good night", "good luck", "good bye", "good job", "thank you", "thanks", "you're welcome",
        "yes sir", "no sir", "yes ma'am", "aye aye captain", "as you wish", "at your service", "ladies and gentlemen",
        "ready or not", "better luck next time", "rest in peace", "piece of cake", "so long",
    ),
    "end": ("then", "now", "sir", "man", "boys", "everybody", "please", "mate", "my friend", "you fool", "again"),
}  # fmt: skip

_CALLS = (
    "{go}", "{go}", "{cry}", "{cry}", "{cry}", "{say}", "{say}", "{say}", "{go} {end}", "{say} {end}", "{cry} {end}",
    "{cry} {go}", "{cry} {say}", "{go} {go}", "oh {cry}", "oh {say}", "hey {say}", "hey {go}", "and {go}", "so {say}",
)  # fmt: skip
_SLOT = re.compile(r"\{(\w+)\}")


def exclamation(rng: random.Random) -> str:
    """Draw one call; one in twelve is repeated, as in "go go go"."""
    text = _SLOT.sub(lambda slot: rng.choice(_SLOTS[slot[1]]), rng.choice(_CALLS))
    again = rng.choice((2, 3)) if rng.random() < 1 / 12 and len(text.split()) <= 2 else 1
    return " ".join([text] * again)
