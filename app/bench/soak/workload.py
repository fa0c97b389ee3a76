"""The soak's workload: recordings, prompts, and random adapters of several kinds with known weights."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from app.bench.over_http import RATE, encoded
from app.engine.lora.peft_fallback import shell_of
from app.models.loading import LoadedModel

Parts = tuple[tuple[str, float], ...]  # (set of weights, share); none: the base model

PROMPTS = ("Transcribe the audio.", "What is heard here?")
NEW_TOKENS = 16
MIX = "alto:0.7,bass:0.3"
LM = r".*language_model.*\."
# By adapter: the sets of weights that take turns under its name, as PEFT's LoraConfig wants them.
SETS: dict[str, tuple[dict[str, Any], ...]] = {
    "alto": tuple({"r": r, "target_modules": LM + "(q_proj|v_proj)"} for r in (4, 12)),
    "bass": tuple({"r": r, "target_modules": LM + "(k_proj|o_proj|up_proj)"} for r in (8, 4)),
    "cello": tuple({"r": r, "target_modules": r".*\.(q_proj|v_proj|fc1|linear)"} for r in (4, 8)),
    "drum": (
        {"r": 4, "target_modules": r".*audio_tower.*(q_proj|fc1)"},
        {"r": 4, "target_modules": LM + "(q_proj|v_proj)", "use_dora": True},  # served alone
    ),
}
STRENGTH = 0.25  # standard deviation of A and B: enough to change what the embedded model says


@dataclass(frozen=True)
class Sound:
    """One recording: the file that is sent, and the samples [n] that are in it, float32."""

    data: bytes
    samples: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Adapter:
    """One set of weights: its folder as PEFT writes it, and the same as a zip to upload."""

    folder: Path
    archive: bytes


def sounds() -> list[Sound]:
    """Sliding tones with their overtones, of several lengths and in two formats without loss."""
    found = []
    for seed, (seconds, container) in enumerate([(0.4, "WAV"), (1.0, "FLAC"), (3.0, "WAV")]):
        drawn = np.random.default_rng(seed)
        time = np.arange(round(seconds * RATE)) / RATE
        pitch = drawn.uniform(90, 250) * (1 + 0.3 * np.sin(2 * np.pi * drawn.uniform(0.5, 3) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        wave = sum(np.sin(k * phase) * drawn.uniform(0.2, 1) / k for k in range(1, 20))
        loud = 0.5 + 0.5 * np.sin(2 * np.pi * drawn.uniform(2, 5) * time)
        wave = wave * loud + 0.05 * drawn.standard_normal(len(time))
        whole = np.round(wave / np.abs(wave).max() * 20_000).astype(np.int16)
        found.append(Sound(encoded(whole, container), whole.astype(np.float32) / 2**15))
    return found


def make_adapters(loaded: LoadedModel, folder: Path) -> dict[str, Adapter]:
    """All sets of `SETS`, by name and number such as `alto.0`."""
    made: dict[str, Adapter] = {}
    for name, configs in SETS.items():
        for number, config in enumerate(configs):
            key = f"{name}.{number}"
            _write(loaded, folder / key, len(made), config)
            made[key] = Adapter(folder / key, _zipped(folder / key))
    return made


def combinations() -> list[Parts]:
    """Everything that an answer may have been given with."""
    single: list[Parts] = [((f"{name}.{number}", 1.0),) for name, sets in SETS.items() for number in range(len(sets))]
    named = [part.split(":") for part in MIX.split(",")]
    (one, first), (other, second) = [(name, float(weight)) for name, weight in named]
    mixed: list[Parts] = [
        ((f"{one}.{a}", first), (f"{other}.{b}", second))
        for a in range(len(SETS[one]))
        for b in range(len(SETS[other]))
    ]
    return [(), *single, *mixed]


def _write(loaded: LoadedModel, folder: Path, seed: int, config: Mapping[str, Any]) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    lora = LoraConfig(**config, lora_alpha=2 * config["r"], task_type="CAUSAL_LM")
    model = get_peft_model(shell_of(loaded.model), lora, autocast_adapter_dtype=False)
    for path, parameter in model.named_parameters():
        if "lora_A" in path or "lora_B" in path:
            parameter.data = STRENGTH * torch.randn_like(parameter)
    model.save_pretrained(str(folder))


def _zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            archive.write(folder / name, name)
    return buffer.getvalue()
