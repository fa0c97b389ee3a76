"""Rows of data as token ids and labels, rendered by the server's own prompt renderer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from app.model.features import Clip
from app.model.prompt import Message, PromptRenderer
from training.data.rows import PLACEHOLDER, Row
from training.hearing import HeardClip, Hearing

_NO_MEL = torch.empty(0)


@dataclass(frozen=True)
class Example:
    """``ids``: prompt and answers. ``labels``: places in ``ids`` that are supervised, answers with their end token.

    Answers that are not to be learned stand in ``ids`` alone.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    clips: tuple[HeardClip, ...]
    row: Row

    @property
    def prompt(self) -> tuple[int, ...]:
        """The ids up to where the last answer begins."""
        last = len(self.labels) - 1
        while last > 0 and self.labels[last - 1] == self.labels[last] - 1:
            last -= 1
        return self.ids[: self.labels[last]]


def make_examples(rows: Sequence[Row], hearing: Hearing, renderer: PromptRenderer) -> list[Example]:
    """One example a row, its recordings heard. Raises BadRequest for control tokens in a text."""
    hearing.hear([sound for row in rows for sound in row.sounds])
    return [_example(row, hearing, renderer) for row in rows]


def _example(row: Row, hearing: Hearing, renderer: PromptRenderer) -> Example:
    heard = hearing.hear(row.sounds)
    *history, answer = conversation(row, heard)
    ids = renderer.render(history, answer="".join(map(str, answer.parts)))  # an empty answer has no parts
    answers = [turn for turn in row.turns if turn.role == "assistant"]
    spans = zip(answers, renderer.answer_spans(ids), strict=True)
    labels = [place for turn, (start, end) in spans if turn.learned for place in range(start, end)]
    return Example(tuple(ids), tuple(labels), tuple(clip for clips in heard for clip in clips), row)


def conversation(row: Row, heard: Sequence[Sequence[HeardClip]]) -> list[Message]:
    """A row's turns as the renderer takes them: each placeholder is the clips of its recording."""
    recordings = iter(heard)
    messages = []
    for turn in row.turns:
        parts: list[str | Clip] = []
        for index, text in enumerate(turn.text.split(PLACEHOLDER)):
            if index:
                parts += [_stand_in(clip) for clip in next(recordings)]
            if text:
                parts.append(text)
        messages.append(Message(turn.role, tuple(parts)))
    return messages


def _stand_in(clip: HeardClip) -> Clip:
    """The renderer only asks how many tokens a clip takes."""
    return Clip(_NO_MEL, clip.frames, clip.tokens, clip.key)
