"""The clips in device memory, and batches of them: augmented mel, token ids and labels."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

from app.models.audio_tower import audio_tokens
from training.pretrain.folder import SYSTEM, WINDOW_S
from training.pretrain.speech.signals import HOP, TAIL, LogMel, disturb, mask_mel, resample
from training.pretrain.speech.synthesis import Record
from training.pretrain.speech.voices import RATE

GRAIN = RATE // 2  # samples; lengths of batches are multiples of it, so that FFT plans are reused
LINGER = 0.2  # share of clips with up to two seconds of silence before and after
IGNORE = -100  # label of a position that is not supervised
OTHER_SYSTEMS = ("You are a speech recognition system.", "You are a voice assistant.", "Be brief.")
Counts = npt.NDArray[np.int64]
Question = Callable[[Record, random.Random], tuple[str, str]]  # -> prompt, answer


@dataclass(frozen=True)
class Batch:
    """A batch on the device, padded on the right."""

    mel: Tensor  # [clips, 128, frames]
    frames: Tensor  # [clips] valid mel frames
    ids: Tensor  # [clips, tokens], an AUDIO token for each audio position
    labels: Tensor  # [clips, tokens]; IGNORE outside the answers
    spoken: Tensor  # [clips, tokens] ids of what is said, right-padded: target of the CTC loss
    spoken_length: Tensor  # [clips]
    source: Tensor | None = None  # [clips, 80, frames] the teacher's mel, nothing blanked
    transcribed: Tensor | None = None  # [clips] whether the answer is what is said


class Pool:
    """Grows as shards appear in a folder."""

    def __init__(self, folder: Path, device: torch.device, seconds: int) -> None:
        """Reserve room for so many seconds of sound (int16)."""
        self.folder, self.device = folder, device
        self.samples = torch.zeros(seconds * RATE, dtype=torch.int16, device=device)
        self.used = 0
        self.seen: set[Path] = set()
        self.clips: list[tuple[int, Record]] = []  # offset in samples, record

    def refresh(self) -> int:
        """Take in the shards that appeared since; return the number of clips."""
        for path in sorted(set(self.folder.glob("*.jsonl")) - self.seen):
            sound = torch.from_numpy(np.load(path.with_suffix(".npy")))
            if self.used + len(sound) > len(self.samples):
                break
            self.samples[self.used : self.used + len(sound)] = sound.to(self.device)
            self.seen.add(path)
            for row in path.read_text(encoding="utf-8").splitlines():
                record = Record(**json.loads(row))
                self.clips.append((self.used, record))
                self.used += record.length
        return len(self.clips)

    def hours(self) -> float:
        """Sound taken in so far."""
        return self.used / RATE / 3600

    def waves(self, clips: list[tuple[int, Record]]) -> Tensor:
        """Cut clips out as float waves [clips, samples], the longest rounded up to `GRAIN`."""
        longest = -(-max(record.length for _, record in clips) // GRAIN) * GRAIN
        starts = torch.tensor([start for start, _ in clips], device=self.device)
        lengths = torch.tensor([record.length for _, record in clips], device=self.device)
        time = torch.arange(longest, device=self.device)
        place = (starts[:, None] + time).clamp(max=len(self.samples) - 1)
        return self.samples[place].float() / 32768 * (time < lengths[:, None])


class Batcher:
    """Turns clips into batches; `question` draws what is asked of each."""

    def __init__(
        self,
        pool: Pool,
        processor: Qwen2AudioProcessor,
        question: Question,
        seed: int,
        fits: Callable[[Record], bool] = lambda _: True,
        teacher: WhisperFeatureExtractor | None = None,
    ) -> None:
        """Keep what every batch needs; training takes the clips that `fits`; `teacher` asks for a second mel."""
        self.fits = fits
        self.source_mel = LogMel(teacher).to(pool.device) if teacher else None
        self.pool, self.processor, self.question = pool, processor, question
        self.rng = random.Random(seed)
        self.log_mel = LogMel(processor.feature_extractor).to(pool.device)
        self.tokenizer = processor.tokenizer
        self.render = lru_cache(4096)(self._render)
        self.encode = lru_cache(500_000)(self._encode)

    def training(self, seconds: float, largest: int) -> Iterator[Batch]:
        """Yield augmented batches for ever, each of clips of similar length.

        A batch holds `seconds` of sound and `largest` clips at most.
        """
        while True:
            self.pool.refresh()
            usable = [clip for clip in self.pool.clips if not clip[1].validation and self.fits(clip[1])]
            drawn = self.rng.sample(usable, min(len(usable), 16 * largest))
            drawn.sort(key=lambda clip: clip[1].length)
            cuts = list(_cut([clip[1].length / RATE for clip in drawn], seconds, largest))
            self.rng.shuffle(cuts)
            for first, last in cuts:
                yield self.batch(drawn[first:last], augmented=True)

    def batch(self, clips: list[tuple[int, Record]], augmented: bool) -> Batch:
        """Build one batch."""
        device = self.pool.device
        waves, lengths = self.pool.waves(clips), np.array([record.length for _, record in clips])
        if augmented:
            waves, lengths = self._move(waves, lengths)
            waves = disturb(waves)
        inside = torch.arange(waves.shape[1], device=device)
        waves = waves * (inside < torch.from_numpy(lengths).to(device)[:, None])
        frames = -(-lengths // HOP)
        waves = functional.pad(waves, (0, TAIL + -waves.shape[1] % HOP))
        mel = self.log_mel(waves)
        source = self.source_mel(waves) if self.source_mel else None
        if augmented and source is None:  # a teacher's tower is to be matched on whole sounds
            mel = mask_mel(mel, torch.from_numpy(frames).to(device))
        return self._tokens([record for _, record in clips], mel, frames, source)

    def _move(self, waves: Tensor, lengths: Counts) -> tuple[Tensor, Counts]:
        """Change pace and put silence before and after, within the window."""
        draw = np.random.default_rng(self.rng.getrandbits(32))
        count = len(lengths)
        speed = np.where(draw.random(count) < 0.7, draw.uniform(0.88, 1.14, count), 1.0)
        moved = lengths / speed
        room = np.maximum(WINDOW_S * RATE - moved - HOP, 0)
        longest = np.where(draw.random(count) < LINGER, 2.0, 0.5) * RATE  # some press the button long before they speak
        lead = np.minimum(draw.uniform(0, longest) * draw.integers(0, 2, count), room)
        trail = np.minimum(draw.uniform(0, longest), room - lead)
        total = np.minimum((moved + lead + trail).astype(np.int64), WINDOW_S * RATE)
        length = -(-int(total.max()) // GRAIN) * GRAIN
        pace, start = (torch.from_numpy(row).float().to(waves.device) for row in (speed, lead))
        return resample(waves, pace, start, length), total

    def _tokens(self, records: list[Record], mel: Tensor, frames: Counts, source: Tensor | None) -> Batch:
        """Lay out prompt, audio positions and answer of every clip."""
        audio, end = self.processor.audio_token_id, self.tokenizer.eos_token_id
        ids, labels, spoken, transcribed = [], [], [], []
        for record, count in zip(records, audio_tokens(frames).tolist(), strict=True):
            prompt, text = self.question(record, self.rng)
            before, after = self.render(prompt, self._system())
            answer = [*self.encode(text), end]
            ids.append([*before, *[audio] * count, *after, *answer])
            labels.append([IGNORE] * (len(ids[-1]) - len(answer)) + answer)
            said = record.kind == "speech" and record.language == "en"
            spoken.append(self.encode(record.text) if said else [])
            transcribed.append(said and text == record.text)
        device = self.pool.device
        return Batch(
            mel=mel,
            frames=torch.from_numpy(frames).to(device),
            ids=_pad(ids, self.tokenizer.pad_token_id).to(device),
            labels=_pad(labels, IGNORE).to(device),
            spoken=_pad(spoken, 0).to(device),
            spoken_length=torch.tensor([len(row) for row in spoken]),
            source=source,
            transcribed=torch.tensor(transcribed).to(device),
        )

    def _system(self) -> str:
        """Mostly the default system prompt."""
        return self.rng.choice(OTHER_SYSTEMS) if self.rng.random() < 0.08 else SYSTEM

    def _encode(self, text: str) -> list[int]:
        """Token ids of a text, without the overhead of the general call."""
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _render(self, prompt: str, system: str) -> tuple[list[int], list[int]]:
        """Render the chat and split it around the audio position."""
        user = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": prompt}]
        chat = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        text = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        before, after = text.split(self.processor.audio_token)
        return self.tokenizer(before).input_ids, self.tokenizer(after).input_ids


def _cut(seconds: list[float], budget: float, largest: int) -> Iterator[tuple[int, int]]:
    """Cut sorted lengths into runs whose padded sum stays within the budget.

    The sizes of runs are multiples of a twelfth of the largest: few shapes, few FFT plans.
    """
    step = max(1, largest // 12)
    first = 0
    while first + step <= len(seconds):
        size = step
        while (
            size + step <= min(largest, len(seconds) - first)
            and (size + step) * (seconds[first + size + step - 1] + 0.7) <= budget
        ):
            size += step
        yield first, first + size
        first += size


def _pad(rows: list[list[int]], value: int) -> Tensor:
    """Stack rows, padded on the right."""
    table = np.full((len(rows), max(1, *map(len, rows))), value, np.int64)
    for row, filled in zip(rows, table, strict=True):
        filled[: len(row)] = row
    return torch.from_numpy(table)
