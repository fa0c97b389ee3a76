"""Spoken commands: patterns with slots, the intent of each and its slots as data.

`sample` draws one command as it is spoken together with its frame, for example
`("go forward ten meters", {"intent": "move", "direction": "forward", "distance": 10, …})`.
The base model answers with the intent; the `command-json` adapter with the whole frame.
"""

import random
import re

from training.pretrain.text.wording import numbers_in, say_number

Frame = dict[str, str | int]

SLOTS: dict[str, tuple[str, ...]] = {
    "direction": ("forward", "backward", "left", "right", "up", "down", "back"),
    "side": ("left", "right", "around"),
    "unit": ("meters", "feet", "steps", "inches", "centimeters", "miles", "yards"),
    "room": (
        "kitchen", "bedroom", "bathroom", "garage", "hall", "office", "living room", "garden",
        "basement", "attic", "dining room", "hallway", "porch", "nursery", "study",
    ),
    "device": (
        "light", "lights", "lamp", "fan", "heater", "television", "radio", "oven", "printer",
        "camera", "alarm", "computer", "dishwasher", "coffee machine", "air conditioner",
    ),
    "state": ("on", "off"),
    "door": ("front door", "back door", "window", "gate", "garage door", "blinds", "curtains"),
    "genre": ("jazz", "rock", "classical", "country", "dance", "pop", "folk", "piano", "blues"),
    "when": ("today", "tomorrow", "tonight", "this evening", "on monday", "on friday", "next week"),
    "city": ("london", "paris", "boston", "chicago", "berlin", "tokyo", "dallas", "sydney"),
    "name": (
        "mom", "dad", "john", "mary", "the office", "peter", "susan", "david", "anna", "robert",
        "the doctor", "michael", "sarah", "james", "emma", "the bank", "my wife", "my brother",
    ),
    "key": (*["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], "star", "pound"),
    "span": ("seconds", "minutes", "hours"),
    "thing": (
        "message", "call", "number", "password", "greeting", "menu", "name", "recording",
        "extension", "folder", "mailbox", "conference", "directory", "account", "operator",
        "order", "report", "list", "file", "reply", "password options", "sales", "support",
    ),
    "act": (
        "accept", "reject", "record", "delete", "save", "repeat", "change", "listen to", "enter",
        "leave", "send", "cancel", "hear", "forward", "play", "mark", "use", "add", "erase",
        "review", "place", "lock", "unlock", "mute", "skip", "exit", "join", "start", "reach",
    ),
    "which": ("this", "the", "your", "a", "the next", "the last", "another", "all", "a new"),
}  # fmt: skip

# "{n}" is any number up to 100; "{action}" is what a telephone menu offers.
PATTERNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("move", (
        "go {direction} {n:distance} {unit}", "move {direction} {n:distance} {unit}",
        "drive {direction} {n:distance} {unit}", "walk {direction} {n:distance} {unit}",
        "go {direction}", "move {direction}", "please move {n:distance} {unit} {direction}",
    )),
    ("turn", ("turn {side}", "turn {n:degrees} degrees {side}", "turn {side} {n:degrees} degrees")),
    ("switch", (
        "turn {state} the {device}", "switch {state} the {device}", "turn the {device} {state}",
        "turn {state} the {device} in the {room}", "switch the {room} {device} {state}",
        "turn {state} the {room} {device}", "please turn {state} the {device} in the {room}",
    )),
    ("dim", ("dim the lights in the {room} to {n:percent} percent", "dim the {room} lights")),
    ("temperature", (
        "set the temperature to {n:degrees} degrees", "make it warmer", "make it cooler",
        "set the {room} temperature to {n:degrees} degrees", "heat the {room} to {n:degrees}",
    )),
    ("volume", ("louder", "quieter", "turn the volume up", "set the volume to {n:level}")),
    ("lock", ("lock the {door}", "is the {door} locked")),
    ("unlock", ("unlock the {door}", "please unlock the {door}")),
    ("open", ("open the {door}", "open the {door} in the {room}")),
    ("close", ("close the {door}", "shut the {door}", "please close the {door}")),
    ("play", ("play some {genre} music", "play music", "next song", "play {genre} in the {room}")),
    ("pause", ("pause", "pause the music", "hold on")),
    ("stop", ("stop", "stop now", "stop the music", "cancel", "cancel that", "halt")),
    ("timer", (
        "set a timer for {n:length} {span}", "timer {n:length} {span}",
        "remind me in {n:length} {span}", "wake me in {n:length} {span}",
    )),
    ("call", ("call {name}", "please call {name}", "phone {name}", "call {name} back")),
    ("message", ("send a message to {name}", "text {name}", "read my messages", "new message")),
    ("weather", (
        "what is the weather", "what's the weather {when}", "will it rain {when}",
        "how is the weather in {city}", "weather in {city} {when}",
    )),
    ("time", ("what time is it", "tell me the time", "what time is it in {city}", "what is the date")),
    ("press_key", (
        "press {key} to {action}", "to {action} press {key}", "press {key} for {thing}",
        "for {thing} press {key}", "press {key}", "dial {key} to {action}",
        "please press {key} to {action}", "press {key} now", "if this is correct press {key}",
    )),
)  # fmt: skip

_SLOT = re.compile(r"\{(\w+)(?::(\w+))?\}")


def sample(rng: random.Random) -> tuple[str, Frame]:
    """Draw one command: its spoken words and its frame (intent first, then the slots as said)."""
    intent, patterns = rng.choice(PATTERNS)
    if rng.random() < 0.25:  # telephone menus vary most: they get a larger share
        intent, patterns = PATTERNS[-1]
    frame: Frame = {"intent": intent}
    words = _SLOT.sub(lambda slot: _fill(slot, frame, rng), rng.choice(patterns))
    return words, frame


def menu(words: str, rng: random.Random) -> tuple[str, Frame]:
    """Offer any words by a key, as telephone menus do, with the frame of it."""
    pattern = rng.choice((
        "press {key} to {action}", "to {action} press {key}", "press {key} for {thing}",
        "for {thing} press {key}", "please press {key} to {action}",
    ))  # fmt: skip
    frame: Frame = {"intent": "press_key"}

    def fill(slot: re.Match[str]) -> str:
        if slot[1] == "key":
            return _fill(slot, frame, rng)
        frame[slot[1]] = words
        return words

    return _SLOT.sub(fill, pattern), frame


def offer(rng: random.Random) -> str:
    """Draw one offer of a telephone menu, as it is spoken."""
    return _SLOT.sub(lambda slot: _fill(slot, {}, rng), rng.choice(PATTERNS[-1][1][:6]))


def _fill(slot: re.Match[str], frame: Frame, rng: random.Random) -> str:
    """Say one slot and note it in the frame under its own name (or the one after the colon)."""
    kind, name = slot[1], slot[2] or slot[1]
    if kind == "n":
        value = rng.choice((rng.randint(1, 12), rng.randint(1, 100), 5 * rng.randint(1, 20)))
        frame[name] = value
        return say_number(value)
    if kind == "action":
        act, which, thing = (rng.choice(SLOTS[part]) for part in ("act", "which", "thing"))
        frame[name] = f"{act} {which} {thing}"
        return str(frame[name])
    word = rng.choice(SLOTS[kind])
    digit = numbers_in(word) if kind == "key" else "none"
    frame[name] = word if digit == "none" else int(digit)
    return word


def parse(text: str) -> Frame | None:
    """Frame of a command as it is written, None for anything else: the reference of human clips."""
    moved = re.fullmatch(r"go (forward|backward) (\w+(?: \w+)?) (meters|feet|steps)", text)
    if moved:
        distance = int(numbers_in(moved[2]))
        return {"intent": "move", "direction": moved[1], "distance": distance, "unit": moved[3]}
    pressed = re.fullmatch(r"(?:please )?press (\w+) (to|for) (.+)", text)
    if not pressed or " press " in pressed[3] or pressed[1] not in SLOTS["key"]:
        return None
    digit = numbers_in(pressed[1])
    key = pressed[1] if digit == "none" else int(digit)
    return {
        "intent": "press_key",
        "key": key,
        "action" if pressed[2] == "to" else "thing": pressed[3],
    }
