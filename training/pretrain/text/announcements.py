"""Announcements, numbers and letters as voices say them: templates of this project's own."""

import random
import re

from training.pretrain.text.wording import DIGITS, NATO, TENS, say_number

_WORDS: dict[str, tuple[str, ...]] = {
    "thing": (
        "account", "agent", "appointment", "area code", "booking", "caller", "channel", "code",
        "conference", "customer", "department", "extension", "greeting", "key", "line", "mailbox",
        "member", "menu", "message", "name", "number", "office", "operator", "option", "order",
        "password", "pin", "participant", "phone number", "recording", "reference", "room",
        "server", "service", "system", "telephone number", "ticket", "user", "voice mail",
        "directory", "entry", "feature", "folder", "queue", "connection", "user name", "volume",
    ),
    "done": (
        "accepted", "activated", "added", "cancelled", "changed", "completed", "confirmed",
        "connected", "deleted", "disabled", "disconnected", "enabled", "extended", "forwarded",
        "locked", "marked urgent", "muted", "paused", "received", "recorded", "rejected",
        "removed", "saved", "sent", "transferred", "unlocked", "unmuted", "updated",
    ),
    "state": (
        "active", "available", "busy", "closed", "correct", "empty", "full", "incorrect", "invalid",
        "in use", "locked", "missing", "not answering", "not available", "not correct", "offline",
        "on the phone", "open", "ready", "too long", "too short", "unavailable", "unknown", "valid",
    ),
    "act": (
        "accept", "add", "answer", "call", "cancel", "change", "check", "choose", "confirm",
        "continue", "delete", "dial", "enter", "erase", "find", "forward", "hear", "leave", "lock",
        "mute", "open", "pause", "play", "print", "record", "reject", "remove", "repeat", "reset",
        "save", "say", "select", "send", "skip", "spell", "transfer", "try", "type", "unlock",
    ),
    "who": (
        "the person", "your party", "the caller", "the owner", "our agent", "the leader",
        "the next representative", "the operator", "the manager", "a friend", "the administrator",
    ),
    "place": ("home", "work", "the office", "the desk", "the bank", "the hotel", "the airport"),
    "button": ("pound key", "star key", "pound", "star", "hash key", "enter key", "zero key"),
    "please": ("please", "please", "", "now", "to begin", "if you wish", "first"),
    "sorry": ("sorry", "i'm sorry", "i am sorry", "we're sorry", "excuse me", "unfortunately"),
    "time": ("a moment", "a minute", "one second", "a few minutes", "the tone", "the beep"),
}  # fmt: skip

_ANNOUNCEMENTS = (
    "please {act} your {thing} followed by the {button}", "{act} your {thing} then press {button}",
    "the {thing} has been {done}", "your {thing} has been {done}", "{thing} {done}", "{thing} {state}",
    "the {thing} is {state}", "your {thing} is {state}", "the {thing} is now {done}", "{done}",
    "that {thing} is {state}", "{sorry} that {thing} is {state} please try again", "{thing}",
    "{sorry} {who} is {state}", "please hold while we {act} the {thing}", "please {act} again",
    "you have {n} new messages", "you have {n} {thing}s", "there are {n} {thing}s in the {thing}",
    "thank you for your {thing}", "thank you for calling", "welcome to the {thing}", "{act}",
    "after {time} {act} your {thing}", "{who} is {state}", "{who} has left the {thing}",
    "you are caller number {n}", "the estimated time is {n} minutes", "please wait {time}",
    "to {act} the {thing} stay on the line", "{who} at {place} is {state}", "goodbye", "hello",
    "you may {act} the {thing} at any time", "you are about to {act} a {thing}", "yes", "no",
    "which {thing} do you want to {act}", "would you like to {act} the {thing}", "{sorry}",
    "i was unable to {act} the {thing}", "no more {thing}s", "the {thing} can't be {done}",
    "you entered {n}", "{thing} {n}", "extension {n}", "at {place}", "from {who}", "{button}",
    "your {thing} will be {done} by {who}", "there is no {thing} with that {thing}", "{state}",
    "all {thing}s are {state}", "i don't know who {done} this {thing}", "you are now {done}",
    "first {act} the {thing} and then {act} the {thing}", "this {thing} lasts {n} minutes",
)  # fmt: skip

_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "today", "tomorrow", "yesterday"]
_ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
    "twentieth",
    "thirtieth",
    "fortieth",
    "fiftieth",
    "sixtieth",
    "seventieth",
    "eightieth",
    "ninetieth",
    "hundredth",
    "thousandth",
    "millionth",
]
_PLACES = (
    "{}", "{}", "the {}", "the {} {thing}", "{} {thing}", "{month} the {}", "the {} of {month}", "on the {}",
    "{} in line", "for the {} time", "you are the {} caller", "go to the {} {thing}", "on the {} floor",
)  # fmt: skip
_RANKS = ["ace", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "jack", "queen", "king"]
_SUITS = ["clubs", "diamonds", "hearts", "spades"]
_SIGNS = (
    "dash,dot,comma,colon,slash,percent,plus,minus,equals,space,asterisk,question mark,"
    "exclamation point,dollar sign,left bracket,right bracket,underscore,ampersand,quote,at sign,"
    "open parenthesis,close parenthesis,less than,greater than,lowercase,uppercase,tilde,semicolon,"
    "left brace,right brace,back slash,caret,back tick,zed"
)
_SLOT = re.compile(r"\{(\w+)\}")


def announcement(rng: random.Random) -> str:
    """Draw one announcement of a telephone system."""

    def fill(slot: re.Match[str]) -> str:
        return say_number(rng.randint(0, 99)) if slot[1] == "n" else rng.choice(_WORDS[slot[1]])

    text = _SLOT.sub(fill, rng.choice(_ANNOUNCEMENTS))
    extra = rng.choice(_WORDS["please"]) if rng.random() < 0.2 else ""
    return f"{text} {extra}".strip()


def numbers(rng: random.Random) -> str:
    """Draw digits in a row, a number, a time, a date, an ordinal, a card or a few of them."""
    kind = rng.choice((0, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8))
    if kind <= 1:
        return " ".join(rng.choice((*DIGITS, "oh")) for _ in range(rng.choice((1, 1, 2, 3, 4, 7))))
    if kind == 2:
        return say_number(rng.choice((rng.randint(0, 20), rng.randint(0, 99), rng.randint(0, 9999))))
    if kind == 3:
        return f"{say_number(rng.randint(1, 12))} {_minutes(rng)} {rng.choice(('a m', 'p m', ''))}".strip()
    if kind == 4:
        day = rng.choice(_ORDINALS[:20])
        return rng.choice((f"{rng.choice(_DAYS)} {rng.choice(_MONTHS)} {day}", rng.choice(_MONTHS)))
    if kind == 5:
        return rng.choice((rng.choice(_ORDINALS), rng.choice(_DAYS), say_number(rng.randint(0, 99))))
    if kind == 6:
        return " ".join(_card(rng) for _ in range(rng.randint(1, 4)))
    if kind == 8:
        return _placed(rng)
    unit = rng.choice(("dollars", "hundred", "thousand", "million", "billion", "minutes", "seconds"))
    return f"{say_number(rng.randint(1, 99))} {unit}"


def _placed(rng: random.Random) -> str:
    """Say an ordinal, simple or of two words, in a few words of its own."""
    place = rng.choice(_ORDINALS)
    if rng.random() < 0.3:
        place = f"{rng.choice(TENS)} {rng.choice(_ORDINALS[:9])}"
    frame = rng.choice(_PLACES)
    return frame.format(place, month=rng.choice(_MONTHS), thing=rng.choice(_WORDS["thing"]))


def letters(rng: random.Random) -> str:
    """Draw letters one by one, NATO words, or the names of signs."""
    kind = rng.choice((0, 0, 1, 2))
    if kind == 0:
        return " ".join(rng.choice([*NATO]) for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 4, 6))))
    if kind == 1:
        return " ".join(rng.choice([*NATO.values(), "niner"]) for _ in range(rng.randint(1, 4)))
    return rng.choice(_SIGNS.split(","))


def _minutes(rng: random.Random) -> str:
    """Say the minutes of a time: "o'clock", "oh five", "thirty"."""
    minute = rng.choice((0, 15, 30, 45, rng.randint(1, 59)))
    if minute == 0:
        return "o'clock"
    return f"oh {say_number(minute)}" if minute < 10 else say_number(minute)


def _card(rng: random.Random) -> str:
    """Say a playing card."""
    return f"{rng.choice(_RANKS)} of {rng.choice(_SUITS)}"
