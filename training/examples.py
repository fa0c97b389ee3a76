"""Rows of data as token ids and labels, rendered by the server's own prompt renderer."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.models.prompt import AudioPart, Message, PromptRenderer
from training.audio_features import AudioFeatures, ClipFeatures
from training.data.rows import PLACEHOLDER, Row


@dataclass(frozen=True)
class Example:
    """``ids``: prompt and answers. ``labels``: places in ``ids`` that are supervised, answers with their end token.

    Answers that are not to be learned stand in ``ids`` alone.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    clips: tuple[ClipFeatures, ...]
    row: Row

    @property
    def prompt(self) -> tuple[int, ...]:
        """The ids up to where the last answer begins."""
        last = len(self.labels) - 1
        while last > 0 and self.labels[last - 1] == self.labels[last] - 1:
            last -= 1
        return self.ids[: self.labels[last]]


def make_examples(rows: Sequence[Row], audio_features: AudioFeatures, renderer: PromptRenderer) -> list[Example]:
    """One example per row, with the clips of its recordings. Raises BadRequest for control tokens in a text."""
    audio_features.extract([sound for row in rows for sound in row.sounds])
    return [_example(row, audio_features, renderer) for row in rows]


def _example(row: Row, audio_features: AudioFeatures, renderer: PromptRenderer) -> Example:
    recordings = audio_features.extract(row.sounds)
    *history, answer = conversation(row, recordings)
    ids = renderer.render(history, answer="".join(map(str, answer.parts)))  # an empty answer has no parts
    answers = [turn for turn in row.turns if turn.role == "assistant"]
    spans = zip(answers, renderer.answer_spans(ids), strict=True)
    labels = [place for turn, (start, end) in spans if turn.learned for place in range(start, end)]
    return Example(tuple(ids), tuple(labels), tuple(clip for clips in recordings for clip in clips), row)


def conversation(row: Row, recordings: Sequence[Sequence[ClipFeatures]]) -> list[Message]:
    """A row's turns as the renderer takes them: each placeholder is the clips of its recording."""
    left = iter(recordings)
    messages = []
    for turn in row.turns:
        parts: list[str | AudioPart] = []
        for index, text in enumerate(turn.text.split(PLACEHOLDER)):
            if index:
                parts += next(left)
            if text:
                parts.append(text)
        messages.append(Message(turn.role, tuple(parts)))
    return messages
