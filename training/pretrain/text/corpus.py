"""Lines for the synthetic voices: English from several sources, none of them a test sentence.

Sources: WordNet's example sentences (Debian `wordnet-base`), bigrams and word frequencies
(`symspellpy`'s dictionaries), and the templates of this package (commands, telephone prompts,
numbers, dates, cards, letters). Foreign words come from Debian's word lists.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from itertools import accumulate
from pathlib import Path

from training.pretrain.text import announcements, commands, everyday, exclamations
from training.pretrain.text.wording import normalise

WORDNET = Path("/usr/share/wordnet")
WORD_LISTS = {
    "fr": Path("/usr/share/dict/french"),
    "es": Path("/usr/share/dict/spanish"),
    "de": Path("/usr/share/dict/ngerman"),
    "it": Path("/usr/share/dict/italian"),
}
SMALL_WORDS = {
    "fr": "le la les un une des de du et est que qui dans pour vous votre ce pas sur avec il ne se au plus par",
    "es": "el la los las un una de del y es que en por para su con no se lo al como más este ha está a",
    "de": "der die das ein eine und ist nicht zu mit von auf für den sie ich es im dem auch wird werden hat sich",
    "it": "il la lo i gli le un una di del e è che non per con si da in nel sono al della questo ha alla",
}
FREE_MENUS = 0.3  # share of commands that are menu prompts with free words
VOCABULARY = 12_000  # English words by frequency that may stand alone
LONGEST = 22  # words; more do not fit the 10 s window at a calm pace


@dataclass(frozen=True)
class Line:
    """One thing to say: the words, what they ask for, and the language they are in."""

    text: str
    frame: commands.Frame = field(default_factory=lambda: {"intent": "other"})
    language: str = "en"


class HeldOut:
    """The test sentences: no line may repeat one, nor carry a longer one inside it."""

    def __init__(self, sentences: Iterable[str]) -> None:
        """Keep what has three words or more; shorter ones are vocabulary ("seven", "thank you")."""
        kept = {normalise(sentence) for sentence in sentences}
        self.sentences = {sentence for sentence in kept if len(sentence.split()) >= 3}
        self.longer = [f" {sentence} " for sentence in kept if len(sentence.split()) >= 4]

    def allows(self, text: str) -> bool:
        """Tell whether a line may be trained on."""
        inside = any(sentence in f" {text} " for sentence in self.longer)
        return not inside and text not in self.sentences


class Corpus:
    """Draws lines; the mixture was chosen for short spoken sentences and broad vocabulary."""

    def __init__(self, held_out: HeldOut, seed: int) -> None:
        """Read the sources (a few seconds)."""
        self.held_out = held_out
        self.rng = random.Random(seed)
        self.kinds: dict[Callable[[], Line], float] = {
            self.saying: 0.20,
            self.exclamation: 0.11,
            self.example: 0.19,
            self.definition: 0.07,
            self.chain: 0.03,
            self.joined: 0.11,
            self.words: 0.08,
            self.command: 0.07,
            self.menu: 0.05,
            self.telephone: 0.06,
            self.numbers: 0.06,
            self.letters: 0.04,
        }

    def draw(self) -> Line:
        """Draw one line that no test sentence forbids."""
        while True:
            line = self.rng.choices([*self.kinds], [*self.kinds.values()])[0]()
            if 0 < len(line.text.split()) <= LONGEST and self.held_out.allows(line.text):
                return line

    def example(self) -> Line:
        """Draw a usage example of WordNet: real short English sentences and phrases."""
        return Line(self.rng.choice(self.examples))

    def definition(self) -> Line:
        """Draw a definition of WordNet: longer phrases of plain English."""
        return Line(self.rng.choice(self.definitions))

    def joined(self) -> Line:
        """Join two or three sentences: clips of five to ten seconds."""
        short: tuple[Callable[[], Line], ...] = (self.example, self.definition, self.saying, self.chain)
        words: list[str] = []
        wanted = self.rng.randint(12, LONGEST)
        while len(words) < wanted:
            words += self.rng.choices(short, (0.45, 0.15, 0.25, 0.15))[0]().text.split()
        return Line(" ".join(words[:LONGEST]))

    def chain(self, longest: int = 9) -> Line:
        """Walk the bigram table: locally English, globally unpredictable, so sound must decide."""
        word = self.rng.choice(self.starters)
        words = [word]
        while len(words) < self.rng.randint(2, longest) and word in self.bigrams:
            followers, weights = self.bigrams[word]
            word = self.rng.choices(followers, cum_weights=weights)[0]
            words.append(word)
        return Line(" ".join(words))

    def words(self) -> Line:
        """Draw one to three words, from the frequent ones more often than from the rare."""
        count = self.rng.choice((1, 1, 1, 1, 2, 3))
        rank = [int(self.rng.random() ** 2 * len(self.vocabulary)) for _ in range(count)]
        return Line(" ".join(self.vocabulary[place] for place in rank))

    def command(self) -> Line:
        """Draw a command with its frame; the offers of some telephone menus are any words."""
        if self.rng.random() < FREE_MENUS:
            return Line(*commands.menu(self.chain(longest=6).text, self.rng))
        return Line(*commands.sample(self.rng))

    def saying(self) -> Line:
        """Draw what people say to a microphone that they try."""
        return Line(everyday.saying(self.rng))

    def exclamation(self) -> Line:
        """Draw a short call, as people shout it or try a microphone with it."""
        return Line(exclamations.exclamation(self.rng))

    def menu(self) -> Line:
        """Draw two to four offers of a telephone menu in a row."""
        offers = [commands.offer(self.rng) for _ in range(self.rng.choice((2, 2, 3, 3, 4)))]
        return Line(self.rng.choice((" ", " ", " or ")).join(offers))

    def telephone(self) -> Line:
        """Draw a telephone announcement (not a command)."""
        return Line(announcements.announcement(self.rng))

    def numbers(self) -> Line:
        """Draw digits, numbers, times, dates or playing cards."""
        return Line(announcements.numbers(self.rng))

    def letters(self) -> Line:
        """Draw letters, signs or NATO words."""
        return Line(announcements.letters(self.rng))

    def foreign(self) -> Line:
        """Draw words of another language, as written there, mostly with its small words between."""
        language = self.rng.choice([*WORD_LISTS])
        words = self.rng.choices(self.foreign_words[language], k=self.rng.randint(1, 7))
        if self.rng.random() < 0.75:
            small = SMALL_WORDS[language].split()
            words = [part for word in words for part in (*self.rng.choices(small, k=self.rng.randint(0, 2)), word)]
        return Line(" ".join(words), language=language)

    @cached_property
    def examples(self) -> list[str]:
        """WordNet's quoted examples without figures, two words or more."""
        quotes = (quote for gloss in _glosses() for quote in re.findall(r'"([^"0-9]+)"', gloss))
        return sorted({text for quote in quotes if " " in (text := normalise(quote))})

    @cached_property
    def definitions(self) -> list[str]:
        """WordNet's definitions without figures and names, four words or more."""
        parts = (part for gloss in _glosses() for part in gloss.partition('"')[0].split(";"))
        plain = (part for part in parts if re.fullmatch(r"[a-z ,'()-]+", part.strip()))
        texts = {normalise(re.sub(r"\(.*?\)", "", part)) for part in plain}
        return sorted(text for text in texts if 4 <= len(text.split()) <= LONGEST)

    @cached_property
    def vocabulary(self) -> list[str]:
        """The most frequent English words, most frequent first."""
        rows = _dictionary("frequency_dictionary_en_82_765.txt")
        words = (row[0] for row in rows[: VOCABULARY + 500])
        return [word for word in words if len(word) > 1 or word in "ai"][:VOCABULARY]

    @cached_property
    def bigrams(self) -> dict[str, tuple[list[str], list[float]]]:
        """word -> (followers, cumulative weights); weights flattened so that rare pairs occur."""
        known = set(self.vocabulary)
        table: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for first, second, count in _dictionary("frequency_bigramdictionary_en_243_342.txt"):
            if first in known and second in known:
                table[first].append((second, int(count) ** 0.4))
        return {
            first: ([word for word, _ in pairs], [*accumulate(weight for _, weight in pairs)])
            for first, pairs in table.items()
        }

    @cached_property
    def starters(self) -> list[str]:
        """Words that some bigram begins with."""
        return sorted(self.bigrams)

    @cached_property
    def foreign_words(self) -> dict[str, list[str]]:
        """Word lists of the other languages."""
        return {
            language: [word for word in _lines(path) if 3 <= len(word) <= 10 and word.isalpha()]
            for language, path in WORD_LISTS.items()
        }


def _glosses() -> Iterator[str]:
    """Read the glosses of WordNet: definitions, then quoted examples."""
    for name in ("data.noun", "data.verb", "data.adj", "data.adv"):
        for line in (WORDNET / name).read_text(encoding="utf-8").splitlines():
            yield line.partition("|")[2]


def _dictionary(name: str) -> list[list[str]]:
    """Read one of symspellpy's tables as rows of columns."""
    text = files("symspellpy").joinpath(name).read_text(encoding="utf-8-sig")
    return [line.split() for line in text.splitlines()]


def _lines(path: Path) -> list[str]:
    """Read a word list."""
    return path.read_text(encoding="utf-8", errors="ignore").splitlines()
