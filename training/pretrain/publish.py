"""The last step of an adapter: its figures before and after on human clips, manifest and card."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file

from training.pretrain import folder
from training.pretrain.adapters import ALPHA, PARTS, RANK, RECIPES, Recipe
from training.pretrain.evaluation.evaluate import answerer
from training.pretrain.evaluation.humans import Human, read
from training.pretrain.text import commands
from training.pretrain.text.wording import edits, spell_nato

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
SPELLED = 32  # letters: longer texts are outside the NATO adapter's training


def publish(base: Path, adapters: Path, human: list[Path], lines: Path) -> None:
    """Write manifest.json and README.md of every trained adapter."""
    clips = [clip for place in human for clip in read(place) if clip.text]
    fingerprint = hashlib.sha256(lines.read_bytes()).hexdigest()
    names = ", ".join(place.name for place in human)
    for recipe in RECIPES:
        target = adapters / recipe.name
        tested = [(clip, right) for clip in clips if (right := expected(recipe.name, clip.text))]
        before = measure(base, None, recipe, tested)
        after = measure(base, target, recipe, tested)
        metrics = {
            "before": before,
            "after": after,
            "data": f"{len(tested)} human clips of: {names}",
        }
        _describe(target, recipe, metrics, fingerprint)


def expected(name: str, text: str) -> str | None:
    """Right answer of an adapter for a transcript; None where the task does not apply."""
    if name == "nato":
        return spell_nato(text) if len(text.replace(" ", "")) <= SPELLED else None
    frame = commands.parse(text)
    return json.dumps(frame) if frame else None


def measure(base: Path, adapter: Path | None, recipe: Recipe, tested: list[tuple[Human, str]]) -> dict[str, float]:
    """Share of exact answers and the word error rate against the right ones, in percent."""
    model, processor = folder.load(base)
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    heard = answerer(model, processor)([clip for clip, _ in tested], recipe.prompt)
    pairs = [(right.split(), text.split()) for (_, right), text in zip(tested, heard, strict=True)]
    wrong, words = sum(edits(*pair) for pair in pairs), sum(len(right) for right, _ in pairs)
    exact = sum(right == text for right, text in pairs)
    return {
        "exact_percent": round(100 * exact / len(pairs), 1),
        "word_error_percent": round(100 * wrong / words, 1),
    }


def _describe(target: Path, recipe: Recipe, metrics: dict[str, Any], fingerprint: str) -> None:
    """Write the manifest and the card."""
    _portable(target / CONFIG)
    files = {name: hashlib.sha256((target / name).read_bytes()).hexdigest() for name in (CONFIG, WEIGHTS)}
    manifest = {
        "schema": 1,
        "name": recipe.name,
        "version": 1,
        "base": {"name": "overtone-tiny"},
        "method": "lora",
        "rank": RANK,
        "alpha": ALPHA,
        "targets": list(PARTS),
        "parts": ["language_model"],
        "parameters": sum(weight.numel() for weight in load_file(target / WEIGHTS).values()),
        "bytes": (target / WEIGHTS).stat().st_size,
        "files": files,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "metrics": metrics,
        "dataset_fingerprint": f"sha256:{fingerprint}",
        "prompt": recipe.prompt,
        "task": recipe.task,
    }
    (target / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    before, after = metrics["before"], metrics["after"]
    (target / "README.md").write_text(
        f"# {recipe.name}\n\nA LoRA adapter (rank {RANK}, language model only, Apache-2.0) for "
        f'`overtone-tiny`. It {recipe.task}, when asked "{recipe.prompt}" or for a transcript.\n\n'
        f"Trained on synthetic speech only. On {metrics['data']}, asked with its default prompt:\n\n"
        "| | base | with the adapter |\n| --- | --- | --- |\n"
        f"| exact answers | {before['exact_percent']} % | {after['exact_percent']} % |\n"
        f"| word error rate of the answers | {before['word_error_percent']} % | "
        f"{after['word_error_percent']} % |\n\n"
        "Made and measured by `python -m training.pretrain adapters` and `… publish`.\n",
        encoding="utf-8",
    )


def _portable(config: Path) -> None:
    """Name the base by its name instead of the folder it was trained in."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = "overtone-tiny"
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
