"""Adapters on their way into the model's dtype."""

import pytest
import torch

from app.engine.lora import prepare
from app.errors import AdapterRejected
from app.registry.weights import AdapterWeights, LoraPair


def test_numbers_too_large_for_float16_are_refused():
    """As infinities they would harm the requests beside it."""
    pair = LoraPair(torch.ones(2, 4), torch.full((4, 2), 4000.0), scaling=32.0)
    weights = AdapterWeights({"model.language_model.layers.0.self_attn.q_proj": pair}, {})
    with pytest.raises(AdapterRejected, match="bfloat16"):
        prepare(weights, torch.float16)
    assert prepare(weights, torch.bfloat16).rank == 2
