"""The step `average` against the mean that NumPy takes of the files."""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from app.settings import EMBEDDED_MODEL
from training.pretrain import folder
from training.pretrain.average import average


def test_every_tensor_is_the_mean(tmp_path: Path) -> None:
    model, processor = folder.load(EMBEDDED_MODEL)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn_like(weight)
    folder.save(model, processor, tmp_path / "later")

    average([EMBEDDED_MODEL, tmp_path / "later"], tmp_path / "mean")

    first, second, mean = (
        load_file(place / "model.safetensors") for place in (EMBEDDED_MODEL, tmp_path / "later", tmp_path / "mean")
    )
    assert first.keys() == second.keys() == mean.keys()
    for name, weight in mean.items():
        right = (first[name].astype(np.float32) + second[name].astype(np.float32)) / 2
        np.testing.assert_array_equal(weight, right.astype(np.float16), err_msg=name)
