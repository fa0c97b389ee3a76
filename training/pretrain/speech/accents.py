"""Other people's English from one voice's phonemes: a speaker swaps sounds for others, as dialects and learners do.

Signs are misaki's, which hibari reads: A I O W Y are the diphthongs of "day, my, go, now, boy", T a tapped t.
Only signs that the voice was trained on stand on the right.
"""

import random
import re
from collections.abc import Callable

VOWEL = "AIOWYaiueoɑɐɔəɚɛɜɪʊʌæᵊᵻ"
SHARE, MOST = 0.5, 4  # share of lines said with an accent; rules of one speaker
STEADY = (0.5, 1.0)  # how often a speaker keeps to a rule

_RULES: tuple[tuple[str, str], ...] = (
    (rf"(?<=[{VOWEL}])ɹ(?![ˈˌ]?[{VOWEL}])", ""), ("ɹ", "T"), (rf"(?<=[{VOWEL}])t(?= |$)", ""),
    ("θ", "t"), ("θ", "s"), ("θ", "f"), ("ð", "d"), ("ð", "z"), ("ð", "v"), ("ŋ(?= |$)", "n"), ("ŋ(?= |$)", "ŋɡ"),
    ("w", "v"), ("v", "w"), ("v", "b"), (r"\bh", ""), ("T", "t"), ("t(?=[ˈˌ]?[əɪi])", "T"),
    ("z(?= |$)", "s"), ("d(?= |$)", "t"), ("b(?= |$)", "p"), ("ɡ(?= |$)", "k"), ("ʤ", "ʧ"), ("ʧ", "ʃ"), ("ʃ", "s"),
    ("l(?= |$)", "w"), ("j(?=u)", ""), ("s(?=[ptk])", "ʃ"),
    ("æ", "ɛ"), ("æ", "ɑ"), ("ʌ", "ɑ"), ("ʌ", "ʊ"), ("ɑ", "ɔ"), ("ɔ", "ɑ"), ("ɔ", "O"), ("ɪ", "i"), ("i", "ɪ"),
    ("ʊ", "u"), ("u", "ʊ"), ("ɛ", "ɪ"), ("ɛ", "æ"), ("ɛ", "A"), ("ɪ", "ə"), ("ə", "ɑ"), ("ə", "ɛ"),
    ("A", "ɛ"), ("A", "I"), ("I", "ɑ"), ("I", "Y"), ("O", "ɔ"), ("O", "W"), ("W", "ɑ"), ("W", "O"), ("Y", "I"),
    (rf"(?<=[^{VOWEL}ˈˌ ɹ])(?= |$)", "ə"), ("ˈ", "ˌ"), ("ˌ", "ˈ"), (r"(?<=[^ ]) (?=[^ ])", ""),
)  # fmt: skip


def accented(phonemes: str, rng: random.Random) -> str:
    """Say phonemes as another speaker would: some rules, each at most of its places."""
    if rng.random() > SHARE:
        return phonemes
    heard = [rule for rule in _RULES if re.search(rule[0], phonemes)]
    for rule, sound in rng.sample(heard, min(len(heard), rng.randint(1, MOST))):
        phonemes = re.sub(rule, _steadily(sound, rng.uniform(*STEADY), rng), phonemes)
    return phonemes


def _steadily(sound: str, steady: float, rng: random.Random) -> Callable[[re.Match[str]], str]:
    """Replace by the other sound, at times by the usual one."""
    return lambda found: sound if rng.random() < steady else found[0]
