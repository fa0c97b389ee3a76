"""Quantised checkpoints: those that Overtone writes, and those of other makers, as compressed-tensors reads them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2AudioForConditionalGeneration

from app.errors import BadRequest, ModelRejected
from app.models.layout import language_model
from app.models.loading import LoadedModel, load, spec_of
from app.models.weights.at_rest import weights_bytes
from app.models.weights.quantize import pack_words, quantize_checkpoint
from app.quantization.formats import FORMATS
from app.quantization.linear import QuantizedLinear
from tests.flamingo import hub_folder, random_flamingo
from tests.models.broken import in_layout, write_weights
from tests.support import at_rest, random_model

CPU = torch.device("cpu")
Q = "language_model.model.layers.1.self_attn.q_proj"
PATH = "model.language_model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A whole model in the Hub's layout."""
    folder, loaded = tmp_path_factory.mktemp("source"), random_model()
    loaded.processor.save_pretrained(folder)
    loaded.processor.feature_extractor.save_pretrained(folder)
    loaded.model.config.architectures = ["Qwen2AudioForConditionalGeneration"]
    loaded.model.config.save_pretrained(folder)
    write_weights(folder, in_layout(loaded.model, "hub"))
    (folder / "NOTICE.txt").write_text("a licence")
    return folder


@pytest.fixture(scope="module", params=FORMATS)
def written(request, source, tmp_path_factory):
    out = tmp_path_factory.mktemp("written") / request.param
    quantize_checkpoint(str(source), request.param, out)
    return request.param, out


def matrices(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return {path: one.weight for path, one in loaded.model.named_modules() if isinstance(one, QuantizedLinear)}


def test_loaded_from_the_folder_as_quantised_while_loading(written, source):
    """Bit for bit, parameters and buffers; under the original's name, so that its adapters fit."""
    weights, folder = written
    direct, again = load(str(source), CPU, torch.float32, weights), load(str(folder), CPU, torch.float32)
    expected = at_rest(load(str(source), CPU, torch.float32), weights).model
    for other in (direct, again):
        found, wanted = other.model.state_dict(), expected.state_dict()
        assert found.keys() == wanted.keys()
        assert all(
            torch.equal(found[name], wanted[name]) and found[name].dtype == wanted[name].dtype for name in wanted
        )
        for (name, one), (_, buffer) in zip(other.model.named_buffers(), expected.named_buffers(), strict=True):
            assert torch.equal(one, buffer), name
        assert other.spec.weights == weights
    assert again.spec == direct.spec
    assert spec_of(str(folder)).fingerprint == spec_of(str(source)).fingerprint
    assert (folder / "NOTICE.txt").is_file()
    size = sum(parameter.nbytes for parameter in again.model.parameters())
    assert size == weights_bytes(again.model.config, weights, torch.float32)


def test_compressed_tensors_reads_the_same_weights(written):
    """By the group that the package's own matching finds for each layer."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.utils import is_match

    _, folder = written
    declared = QuantizationConfig.model_validate(
        json.loads((folder / "config.json").read_text())["quantization_config"]
    )
    tensors = load_file(folder / "model.safetensors")
    loaded = load(str(folder), CPU, torch.float32)
    ours = matrices(loaded)
    assert len(ours) == 3 * 7 + 1
    for path, weight in ours.items():
        module = loaded.model.get_submodule(path)
        (scheme,) = (one for one in declared.config_groups.values() if is_match(path, module, one.targets))
        inner = path if path == "lm_head" else f"model.{path.removeprefix('model.language_model.')}"
        stem = f"language_model.{inner}."
        parts = {name.removeprefix(stem): one for name, one in tensors.items() if name.startswith(stem)}
        theirs = BaseCompressor.get_value_from_registry(scheme.format).decompress(parts, scheme)["weight"]
        assert torch.equal(theirs.float(), weight), path
    assert not any(is_match(PATH.replace("language_model", "audio_tower"), module, one.targets)
                   for one in declared.config_groups.values())  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of other libraries, about settings that are theirs
def test_transformers_reads_the_same_weights(written):
    """It knows one group alone, and so no int4, whose lm_head is a group of its own."""
    pytest.importorskip("compressed_tensors")
    from transformers import CompressedTensorsConfig

    weights, folder = written
    if weights == "int4":
        return
    other = Qwen2AudioForConditionalGeneration.from_pretrained(
        str(folder), dtype=torch.float32, quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    for path, weight in matrices(load(str(folder), CPU, torch.float32)).items():
        assert torch.equal(other.get_submodule(path).weight, weight), path


def test_a_folder_in_full_precision_again(written):
    """OVERTONE_WEIGHTS=bfloat16 dequantises; another format is refused, since both errors would add up."""
    weights, folder = written
    plain = load(str(folder), CPU, torch.float32, "bfloat16")
    for path, weight in matrices(load(str(folder), CPU, torch.float32)).items():
        assert torch.equal(plain.model.get_submodule(path).weight, weight)
    assert plain.spec.weights == "bfloat16"
    other = next(kind for kind in FORMATS if kind != weights)
    with pytest.raises(ModelRejected, match=f"are {weights} already, and OVERTONE_WEIGHTS asks for {other}"):
        load(str(folder), CPU, torch.float32, other)
    with pytest.raises(ModelRejected, match=f"are {weights} already"):
        quantize_checkpoint(str(folder), other, folder.parent / "twice")


def test_audio_flamingo_is_written_and_read(tmp_path):
    made = random_flamingo()
    made.model.config.architectures = ["AudioFlamingo3ForConditionalGeneration"]
    source = hub_folder(made, tmp_path / "source")
    quantize_checkpoint(str(source), "int4", tmp_path / "out")
    ours = load(str(tmp_path / "out"), CPU, torch.float32)
    expected = at_rest(random_flamingo(), "int4").model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.model.state_dict().items())


def test_only_an_empty_folder_is_written_without_force(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    quantize_checkpoint(str(source), "int8", out)
    before = (out / "model.safetensors").read_bytes()
    (out / "mine.md").write_text("kept")
    with pytest.raises(BadRequest, match="not empty"):
        quantize_checkpoint(str(source), "int4", out)
    assert (out / "model.safetensors").read_bytes() == before
    quantize_checkpoint(str(source), "int4", out, force=True)
    assert load(str(out), CPU, torch.float32).spec.weights == "int4"
    assert (out / "mine.md").read_text() == "kept"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")
    for place in (tmp_path / "notes", source):
        with pytest.raises(BadRequest, match=r"holds other things|is the model itself"):
            quantize_checkpoint(str(source), "int4", place, force=True)
    assert sorted(one.name for one in (tmp_path / "notes").iterdir()) == ["diary.txt"]


def test_a_source_that_is_damaged_leaves_nothing_behind(source, tmp_path):
    broken = shutil.copytree(source, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors[f"{Q}.weight"][3, 5] = torch.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelRejected, match=rf"NaN or infinity in {Q}\.weight"):
        quantize_checkpoint(str(broken), "int4", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(ModelRejected, match=rf"NaN or infinity in {Q}\.weight"):
        load(str(broken), CPU, torch.float32, "int8")


# Checkpoints as other makers write them: the parts of one layer, and the weights that they stand for, by hand
def symmetric(bits, groups):
    """Numbers without zero points, a scale in bfloat16 per output or group; weights rounded to that dtype."""
    numbers = torch.randint(-(1 << (bits - 1)), 1 << (bits - 1), (64, 64), dtype=torch.int8)
    scale = (torch.rand(64, groups) / 10).bfloat16()
    weight = numbers.bfloat16() * scale.repeat_interleave(64 // groups, 1)
    return numbers, scale, weight


def packed(bits, groups):
    numbers, scale, weight = symmetric(bits, groups)
    shape = torch.tensor([64, 64])
    return {"weight_packed": pack_words(numbers, bits), "weight_scale": scale, "weight_shape": shape}, weight


def int8_for_activations():
    """W8A8: the scales of its activations play no part here."""
    numbers, scale, weight = symmetric(8, 1)
    return {"weight": numbers, "weight_scale": scale, "input_scale": torch.ones(1)}, weight


def float8_for_all():
    numbers = torch.randn(64, 64).to(torch.float8_e4m3fn)
    return {"weight": numbers, "weight_scale": torch.tensor(0.25)}, numbers.float() * 0.25


OTHERS = {
    "int4 in groups of 32": lambda: packed(4, 2),
    "int4 by output": lambda: packed(4, 1),
    "int8 packed": lambda: packed(8, 1),
    "int8 in groups": lambda: packed(8, 4),
    "int8 with activations": int8_for_activations,
    "float8, one scale": float8_for_all,
}


def with_layer(source, folder, parts, declared=None):
    """The model with one layer in another maker's form."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(f"{Q}.weight")
    tensors |= {f"{Q}.{name}": tensor.contiguous() for name, tensor in parts.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    content = json.loads((folder / "config.json").read_text())
    content["quantization_config"] = declared or {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", OTHERS)
def test_one_layer_of_another_maker(source, tmp_path, name):
    """The rest of the model stays as it is in the file."""
    torch.manual_seed(0)
    parts, weight = OTHERS[name]()
    loaded = load(str(with_layer(source, tmp_path / "model", parts)), CPU, torch.float32)
    assert torch.equal(loaded.model.get_submodule(PATH).weight, weight.float())
    assert list(matrices(loaded)) == [PATH]
    assert loaded.spec.weights == name.split()[0].rstrip(",")


def test_a_tower_in_eight_bits_is_dequantised(source, tmp_path):
    torch.manual_seed(0)
    folder = shutil.copytree(source, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = "audio_tower.layers.0.fc1"
    numbers, scale = (
        torch.randint(-127, 128, tensors[f"{name}.weight"].shape, dtype=torch.int8),
        torch.rand(64, 1) / 100,
    )
    tensors |= {f"{name}.weight": numbers, f"{name}.weight_scale": scale}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    content = json.loads((folder / "config.json").read_text())
    content["quantization_config"] = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    (folder / "config.json").write_text(json.dumps(content))
    loaded = load(str(folder), CPU, torch.float32)
    assert torch.equal(loaded.model.get_submodule(f"model.{name}").weight, numbers * scale)
    assert not matrices(loaded)


REFUSED = {
    "ordered by activations": (
        lambda: packed(4, 2)[0] | {"weight_g_idx": torch.zeros(64, dtype=torch.int32)},
        "weight_g_idx",
    ),
    "blocks of outputs": (
        lambda: float8_for_all()[0] | {"weight_scale": torch.ones(2, 2)},
        r"its scale is F32 \[2, 2\]",
    ),
    "no scale": (lambda: {"weight_packed": packed(4, 2)[0]["weight_packed"]}, "one weight_scale"),
    "three bits": (
        lambda: packed(4, 2)[0] | {"weight_packed": torch.zeros(64, 6, dtype=torch.int32)},
        "no weights of 64 x 64",
    ),
    "NaN in float8": (
        lambda: float8_for_all()[0] | {"weight": torch.full((64, 64), torch.nan).to(torch.float8_e4m3fn)},
        "NaN in",
    ),
    "infinite scale": (lambda: float8_for_all()[0] | {"weight_scale": torch.tensor(torch.inf)}, "NaN or infinity in"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_by_tensor(source, tmp_path, name):
    parts, words = REFUSED[name]
    with pytest.raises(ModelRejected, match=words) as caught:
        load(str(with_layer(source, tmp_path / "model", parts())), CPU, torch.float32)
    assert Q in str(caught.value)


@pytest.mark.parametrize(("declared", "words"), [
    ({"quant_method": "gptq", "bits": 4}, "GPTQ"), ({"quant_method": "awq", "bits": 4}, "AWQ"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"), ({"load_in_4bit": True}, "bitsandbytes"),
    ({"quant_method": "fp8"}, "fine-grained FP8"), ({"quant_method": "something-new"}, "something-new"),
    ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "nvfp4-pack-quantized"),
    ({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse"),
])  # fmt: skip
def test_other_makers_are_refused_by_name_with_the_way_over(source, tmp_path, declared, words):
    folder = with_layer(source, tmp_path / "model", {}, declared)
    for way in (lambda: load(str(folder), CPU, torch.float32), lambda: spec_of(str(folder))):
        with pytest.raises(ModelRejected, match=words) as caught:
            way()
        assert "OVERTONE_WEIGHTS=int4" in str(caught.value)
        assert "overtone quantize" in str(caught.value)


def test_makers_are_known_by_their_files_where_nothing_is_declared(source, tmp_path):
    with pytest.raises(ModelRejected, match=r"GGUF.*OVERTONE_WEIGHTS"):
        load(str(tmp_path / "model-Q4_K_M.gguf"), CPU, torch.float32)
    folder = shutil.copytree(source, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{Q}.qweight"] = torch.zeros(8, 64, dtype=torch.int32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelRejected, match="GPTQ or AWQ"):
        load(str(folder), CPU, torch.float32)


def test_projections_that_are_packed_lie_one_behind_the_other(written, source):
    """So that packing them takes no memory: each is a view of the pack from the start."""
    pytest.importorskip("triton")
    from app.engine.cuda.packed_weights import pack_layers
    from app.models.family import PACKED_PROJECTIONS

    weights, folder = written
    for loaded in (load(str(source), CPU, torch.float32, weights), load(str(folder), CPU, torch.float32)):
        for layer in language_model(loaded.model).layers:
            for names in (PACKED_PROJECTIONS["qkv"], PACKED_PROJECTIONS["mlp"]):
                parts = [layer.get_submodule(name) for name in names]
                places = [part.data.data_ptr() for part in parts]
                whole = pack_layers(layer, names, None).weight
                assert whole.data.data_ptr() == places[0]
                assert [part.data.data_ptr() for part in parts] == places
                assert torch.equal(whole.dequantize(torch.float32), torch.cat([part.weight for part in parts]))
