"""Evaluation on human recordings: word error rate and exact answers, by kind of clip.

Prompts are the phrasings that training never saw. Whisper tiny.en may be scored on the same
clips. Results are written as JSON for the model card.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from training.pretrain import eight_bits, folder
from training.pretrain.evaluation import following
from training.pretrain.evaluation.humans import SILENT, Human, read
from training.pretrain.text.tasks import BY_NAME, NO_SPEECH
from training.pretrain.text.wording import edits, normalise, numbers_in

BATCH = 16
MAX_NEW_TOKENS = 96
Answers = Callable[[list[Human], str], list[str]]  # clips, prompt -> answers


def answerer(model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor) -> Answers:
    """Answer prompts about clips with plain Transformers, greedy, in batches of similar length."""
    model.eval()

    @torch.inference_mode()
    def answers(clips: list[Human], prompt: str) -> list[str]:
        user = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": prompt}]
        chat = [{"role": "user", "content": user}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        waves = [clip.samples() for clip in clips]
        order = sorted(range(len(waves)), key=lambda place: len(waves[place]))
        texts = [""] * len(clips)
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            inputs = processor(
                text=[text] * len(chosen), audio=[waves[place] for place in chosen],
                sampling_rate=16_000, padding=True, return_tensors="pt",
            ).to(model.device)  # fmt: skip
            output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
            new = output[:, inputs.input_ids.shape[1] :]
            for place, answer in zip(chosen, processor.batch_decode(new, True), strict=True):
                texts[place] = answer.strip()
        return texts

    return answers


def score(clips: list[Human], heard: list[str]) -> dict[str, dict[str, float]]:
    """Score transcripts by category: clips, word error rate (%), exact (%)."""
    groups: dict[str, list[tuple[list[str], list[str]]]] = defaultdict(list)
    for clip, text in zip(clips, heard, strict=True):
        pair = (clip.text.split(), text.split())
        groups[clip.category].append(pair)
        groups["all"].append(pair)
    return {
        name: {
            "clips": len(pairs),
            "wer": _percent(sum(edits(*pair) for pair in pairs), sum(len(p[0]) for p in pairs)),
            "exact": _percent(sum(said == heard for said, heard in pairs), len(pairs)),
        }
        for name, pairs in groups.items()
    }


def evaluate(
    source: Path, human: list[Path], target: Path, with_peer: bool, in_eight_bits: bool = False
) -> dict[str, Any]:
    """Score a model folder on folders of human clips and write the figures to `target`."""
    model, processor = folder.load(source)
    if in_eight_bits:
        eight_bits.Rounded(model).__enter__()
    answers = answerer(model, processor)
    figures: dict[str, Any] = {}
    details: list[dict[str, str]] = []
    for place in human:
        clips = read(place)
        spoken = [clip for clip in clips if clip.text]
        heard = answers(spoken, BY_NAME["transcribe"].phrasings[-1])
        figures[place.name] = {"transcribe": score(spoken, heard), "tasks": _tasks(clips, answers)}
        default = answers(spoken, BY_NAME["transcribe"].phrasings[0])
        figures[place.name]["default prompt"] = score(spoken, default)["all"]
        figures[place.name]["right task"] = following.measure(spoken, answers)
        if with_peer:
            figures[place.name]["whisper-tiny.en"] = score(spoken, _peer(spoken))
        details += [
            {"file": clip.path.name, "said": clip.text, "heard": text} for clip, text in zip(spoken, heard, strict=True)
        ]
    target.write_text(json.dumps({"figures": figures, "transcripts": details}, indent=1) + "\n")
    return figures


def _tasks(clips: list[Human], answers: Answers) -> dict[str, dict[str, float]]:
    """Exact answers of the other tasks, on the clips whose right answer is known."""
    spoken = [clip for clip in clips if clip.text]
    some = spoken[::5]  # enough for a yes or no
    foreign = [clip for clip in clips if clip.category == "foreign"]
    silent = [clip for clip in clips if clip.category == SILENT]
    numbered = [clip for clip in spoken if clip.category != "letters" and numbers_in(clip.text) != "none"]
    wanted = {
        "numbers": (numbered, [numbers_in(clip.text) for clip in numbered]),
        "english": (some + foreign, ["yes"] * len(some) + ["no"] * len(foreign)),
        "transcribe": (silent, [NO_SPEECH] * len(silent)),
        "sound": (some, ["speech"] * len(some)),
    }
    return {
        f"{name}{' (silence)' if asked is silent else ''}": {
            "clips": len(asked),
            "exact": _percent(sum(map(str.__eq__, answers(asked, _unseen(name)), right)), len(asked)),
        }
        for name, (asked, right) in wanted.items()
        if asked
    }


def _unseen(task: str) -> str:
    """The phrasing of a task that training never saw."""
    return BY_NAME[task].phrasings[-1]


def _peer(clips: list[Human]) -> list[str]:
    """Whisper's transcripts; figures it writes are read as number or digit by digit, as fits better."""
    from training.pretrain.evaluation import peer

    return [
        min(
            (normalise(text), normalise(text, digits_apart=True)),
            key=lambda reading: edits(clip.text.split(), reading.split()),
        )
        for clip, text in zip(clips, peer.transcribe(clips), strict=True)
    ]


def _percent(part: int, whole: int) -> float:
    """Share in percent, one decimal."""
    return round(100 * part / max(whole, 1), 1)
