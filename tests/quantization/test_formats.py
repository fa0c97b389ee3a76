"""Formats of weights at rest, against arithmetic written out by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from app.models.weights.at_rest import layer_formats, modules_bytes, weights_bytes
from app.models.weights.random_weights import config_of
from app.quantization.formats import FORMATS, group_size, matrix_bytes, pack_int4, quantize, unpack_int4
from app.quantization.linear import QuantizedLinear, quantize_layers
from tests.support import random_model

WIDTHS = (8, 40, 64, 96, 256, 384)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def by_hand(matrix):
    """The weights in float64, each number taken out of its bits in plain Python and NumPy."""
    outputs, inputs = len(matrix.data), matrix.inputs
    data = matrix.data.numpy()
    if matrix.kind == "int8":
        numbers = data.astype(np.float64)
    elif matrix.kind == "float8":
        sign, exponent, mantissa = (data >> 7).astype(int), (data >> 3 & 15).astype(int), (data & 7) / 8
        size = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7.0))
        numbers = np.where(sign == 1, -size, size)
    else:
        numbers = np.empty((outputs, inputs))
        words = 16 if inputs % 128 == 0 else 1
        for column in range(inputs):
            block, within = divmod(column, 8 * words)
            nibble, word = divmod(within, words)
            bits = data[:, block * words + word].view(np.uint32)
            numbers[:, column] = (bits >> np.uint32(4 * nibble) & np.uint32(15)).astype(float) - 8
    group = inputs // matrix.scale.shape[1]
    scale = matrix.scale.double().numpy().repeat(group, 1)
    zero_point = 0 if matrix.zero_point is None else matrix.zero_point.double().numpy().repeat(group, 1)
    return (numbers - zero_point) * scale


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("inputs", WIDTHS)
def test_weights_come_back_as_their_bits_say(kind, inputs):
    """And within half a step of the original: of the output's largest weight, or of the group's range."""
    weight = torch.randn(24, inputs) * torch.logspace(-3, 2, 24)[:, None]
    matrix = quantize(weight, kind)
    exact = by_hand(matrix)
    rounded = torch.from_numpy(exact).to(matrix.scale.dtype)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(matrix.dequantize(dtype), rounded.to(dtype))
    grouped = weight.view(24, matrix.scale.shape[1], -1)
    error = (torch.from_numpy(exact).view_as(grouped) - grouped).abs()
    if kind == "float8":
        allowed = torch.maximum(
            grouped.abs() / 16, matrix.scale[..., None] * 2**-10
        )  # three bits, or the smallest step
    else:
        allowed = matrix.scale[..., None].float() * (0.5 if kind == "int8" else 1.02)  # zero points are rounded
    assert bool((error <= allowed * (1 + 1e-3)).all())


@pytest.mark.parametrize("kind", FORMATS)
def test_outputs_of_one_sign_of_zeros_and_of_one_large_weight(kind):
    weight = torch.stack([torch.rand(64) + 1, -torch.rand(64) - 1, torch.zeros(64), 1e-6 * torch.randn(64)])
    weight[3, 5] = 100.0
    found = quantize(weight, kind).dequantize(torch.float32)
    assert torch.isfinite(found).all()
    assert torch.equal(found[2], torch.zeros(64))
    assert float((found[:2] - weight[:2]).abs().max()) < (0.07 if kind != "int8" else 0.01)
    assert float(found[3, 5]) == pytest.approx(100.0, rel=0.001)


@pytest.mark.parametrize("inputs", WIDTHS)
def test_int4_words(inputs):
    numbers = torch.randint(-8, 8, (5, inputs), dtype=torch.int8)
    data = pack_int4(numbers)
    assert data.shape == (5, inputs // 8)
    assert torch.equal(unpack_int4(data), numbers)


def test_groups_are_as_large_as_the_width_allows():
    assert [group_size(inputs) for inputs in (4096, 11008, 384, 64, 96, 48, 40)] == [128, 128, 128, 64, 32, 16, 8]
    with pytest.raises(ValueError, match="multiple of 8"):
        group_size(100)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_layer_gives_what_the_plain_layer_over_its_weights_gives(kind):
    """Forward and the gradients to input and bias; and it keeps no dequantised matrix for the way back."""
    linear = nn.Linear(96, 40)
    layer = QuantizedLinear.of(linear, kind)
    plain = nn.Linear(96, 40)
    plain.weight.data, plain.bias.data = layer.matrix.dequantize(torch.float32), linear.bias.detach().clone()
    ours, theirs = (torch.randn(2, 5, 96, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in "ab")
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.shape), lambda tensor: tensor):
        out = layer(ours)
    assert torch.equal(out, plain(theirs))
    gradient = torch.randn(2, 5, 40)
    out.backward(gradient)
    plain(theirs).backward(gradient)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
    assert torch.allclose(layer.bias.grad, plain.bias.grad, atol=1e-5)
    assert (40, 96) not in saved
    assert all(not parameter.requires_grad for name, parameter in layer.named_parameters() if name != "bias")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_layer_under_autocast_computes_in_its_dtype(kind):
    layer = QuantizedLinear.of(nn.Linear(64, 16), kind)
    x = torch.randn(3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    wanted = F.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_language_model_alone_is_quantised_and_takes_the_bytes_that_were_told(kind):
    loaded = random_model(dtype=torch.bfloat16)
    told = weights_bytes(loaded.model.config, kind, torch.bfloat16)
    before = sum(parameter.nbytes for parameter in loaded.model.parameters())
    assert weights_bytes(loaded.model.config, "bfloat16", torch.bfloat16) == before
    formats = layer_formats(loaded.model, kind)
    quantize_layers(loaded.model, formats)
    assert sum(parameter.nbytes for parameter in loaded.model.parameters()) == told < before
    found = {path for path, module in loaded.model.named_modules() if isinstance(module, QuantizedLinear)}
    assert found == set(formats) == {path for path in loaded.spec.linears if "language_model" in path or "head" in path}


def test_released_dimensions_fit_their_cards():
    """7B in bytes: 16.8 GB, and what smaller formats must not exceed."""
    from app.models.config import on_meta

    modules = on_meta(config_of("7b"))
    sizes = [modules_bytes(modules, weights, torch.bfloat16) / 1e9 for weights in ("bfloat16", *FORMATS)]
    assert sizes == pytest.approx([16.79, 9.69, 9.69, 6.59], abs=0.01)
    assert matrix_bytes("int4", 4096, 4096) == 4096 * 2048 + 4096 * 32 * 3
