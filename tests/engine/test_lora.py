"""Adapters on their way into the model's dtype."""

import pytest
import torch

from app.engine.lora.layers import prepare
from app.errors import AdapterRejected
from app.registry.adapter_files.weights import AdapterWeights, LoraPair


def test_numbers_too_large_for_float16_are_refused():
    """As infinities they would harm the requests beside it."""
    pair = LoraPair(torch.ones(2, 4), torch.full((4, 2), 4000.0), scaling=32.0)
    weights = AdapterWeights({"model.language_model.layers.0.self_attn.q_proj": pair}, {})
    with pytest.raises(AdapterRejected, match="bfloat16"):
        prepare(weights, torch.float16)
    assert prepare(weights, torch.bfloat16).rank == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scaling", [1e300, -1e300, 100.0])
def test_what_overflows_when_it_is_scaled_is_refused_by_name(dtype, scaling):
    """Also beside layers of another scaling, in layers with holes, and outside the language model."""
    good = LoraPair(torch.ones(2, 4), torch.ones(4, 2), scaling=1.0)
    bad = LoraPair(torch.ones(2, 4), torch.full((4, 2), 3e37), scaling=scaling)
    for path in ("model.language_model.layers.2.mlp.up_proj", "lm_head", "model.audio_tower.layers.0.fc1"):
        others = {"model.language_model.layers.0.mlp.up_proj": good, "model.audio_tower.layers.1.fc1": good}
        with pytest.raises(AdapterRejected, match=rf"{path}\.lora_B\.weight times its scaling"):
            prepare(AdapterWeights(others | {path: bad}, {}), dtype)
        assert prepare(AdapterWeights(others | {path: good}, {}), dtype).rank == 2


def test_whole_parameters_are_judged_as_they_are_cast():
    name = "model.multi_modal_projector.linear.weight"
    with pytest.raises(AdapterRejected, match=name):
        prepare(AdapterWeights({}, {name: torch.full((2, 2), 1e300, dtype=torch.float64)}), torch.float32)
