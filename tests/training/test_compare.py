"""The comparison of the methods, and the counts at full size."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from app.errors import BadRequest
from app.settings import Settings
from training.bench import measure
from training.dimensions import dimensions, write_dimensions
from training.reports.compare import compare, write_comparison


def test_all_methods_side_by_side(tones: Path, model_folder: Path, tmp_path: Path) -> None:
    settings = Settings(model=str(model_folder), adapters=tmp_path / "unused", device="cpu")
    found = {one.method: one for one in compare(str(tones), tmp_path, settings, 1, 8, Console(quiet=True))}
    assert set(found) == {"lora", "projector", "head"}
    assert all(one.reversible for one in found.values())
    assert found["lora"].trained_parts == ["language_model"]
    assert found["projector"].trained_parts == ["projector"]
    assert found["projector"].metrics["drift"]["relative_change"] > 0
    for one in found.values():
        (weights,) = (tmp_path / "registry" / one.method).glob("*.safetensors")
        assert one.checkpoint_bytes == weights.stat().st_size
        assert one.losses
    text = write_comparison(list(found.values()), tmp_path)
    assert "| base bit-equal after unload | yes | yes | yes |" in text
    assert text in (tmp_path / "comparison.md").read_text()
    assert {one["method"] for one in json.loads((tmp_path / "comparison.json").read_text())} == set(found)
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_counts_at_full_size(tmp_path: Path) -> None:
    """The figures of DESIGN and of the document behind it; nothing is downloaded."""
    found = dimensions("Qwen/Qwen2-Audio-7B-Instruct")
    counts = {count.method: count for count in found.counts}
    assert found.parts == {"audio_tower": 636_968_960, "projector": 5_246_976, "language_model": 7_754_878_976}
    assert counts["lora"].trainable == 4_194_304
    assert f"{100 * counts['lora'].share:.4f}" == "0.0499"
    assert counts["lora with tower"].trainable == 5_505_024
    assert counts["projector"].trainable == 5_246_976
    assert counts["lora"].bytes("bfloat16") == 8_388_608
    text = write_dimensions(found, tmp_path)
    assert "| lora | 8.401 B | 4,194,304 | 0.0499 % | 16.8 MB | 8.4 MB |" in text
    assert json.loads((tmp_path / "dimensions.json").read_text())["parts"] == found.parts


def test_unknown_dimensions_are_refused() -> None:
    with pytest.raises(BadRequest, match="not shipped"):
        dimensions("someone/else")


def test_both_systems_of_the_bench_do_the_same_work(model_folder: Path) -> None:
    plain, ours = measure(Settings(model=str(model_folder), device="cpu"), None, seconds=1.5, batch=4, steps=1)
    assert ours.loss == pytest.approx(plain.loss, abs=1e-3)
    assert min(plain.clips_per_second, ours.clips_per_second) > 0
