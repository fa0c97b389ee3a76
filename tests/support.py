"""Small random models and adapters made with plain transformers and PEFT, and the oracle over them."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from app.audio.decode import Receipt, Recording
from app.engine.sampling_params import SamplingParams
from app.models.features import Clip, FeatureExtractor
from app.models.head import Head, HeadConfig
from app.models.loading import LoadedModel, describe
from app.models.prompt import Message, PromptRenderer
from app.models.weights.at_rest import layer_formats
from app.quantization.formats import Format
from app.quantization.linear import QuantizedLinear, quantize_layers

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"]
LM = r".*language_model.*\."
QV = LM + "(q_proj|v_proj)"
SECONDS = 2
ADAPTERS: dict[str, dict[str, Any]] = {
    "qv": {},
    "qv2": {"r": 4},
    "rslora": {"r": 8, "use_rslora": True},
    "ranks": {"r": 4, "rank_pattern": {"q_proj": 12}, "alpha_pattern": {"v_proj": 3}},
    "everything": {"r": 16, "target_modules": r".*\.(\w+_proj|fc1|fc2|linear)"},
    "tower": {"target_modules": r".*audio_tower.*(q_proj|v_proj|fc1)"},
    "projector-lora": {"target_modules": r".*multi_modal_projector.linear"},
    "projector": {"modules_to_save": ["multi_modal_projector"]},
    "head": {"target_modules": r"lm_head"},
    "dora": {"use_dora": True},
    "bias": {"bias": "lora_only"},
    "lora-bias": {"lora_bias": True},
    "embedding": {"target_modules": ["embed_tokens"]},
    "saved-head": {"modules_to_save": ["lm_head"]},
}


def random_processor() -> Qwen2AudioProcessor:
    """Bytes as tokens, Qwen2-Audio's control tokens and chat template, a two-second window."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=SPECIALS,
        padding_side="left",
    )
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=SECONDS)
    template = Qwen2AudioProcessor.default_chat_template.fget(None)
    return Qwen2AudioProcessor(extractor, fast, chat_template=template)


def text_config(processor: Any, **sizes: Any) -> dict[str, Any]:
    """A small Qwen2 with grouped queries; ``sizes`` replace its own."""
    return {
        "model_type": "qwen2",
        "vocab_size": len(processor.tokenizer),
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        **sizes,
    }


def drawn(model: Any, processor: Any, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """The model with weights that make answers vary, from torch's own generator."""
    for path, parameter in model.named_parameters():
        if parameter.dim() >= 2 and "embed_positions" not in path:
            torch.nn.init.normal_(parameter, std=0.3 if "audio_tower" in path else 0.2)
        elif path.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.02)
    model = model.to(dtype).eval().requires_grad_(False)
    return LoadedModel(model, processor, describe(model, "random", "f" * 64))


def random_model(seed: int = 0, dtype: torch.dtype = torch.float32, **text: Any) -> LoadedModel:
    """A random Qwen2-Audio whose greedy answers vary with prompt, audio and adapter."""
    torch.manual_seed(seed)
    processor = random_processor()
    audio_id = processor.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    config = Qwen2AudioConfig(
        audio_config=dict(
            model_type="qwen2_audio_encoder",
            d_model=32,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=64,
            num_mel_bins=128,
            max_source_positions=SECONDS * 50,
        ),
        text_config=text_config(processor, **text),
        audio_token_id=audio_id,
        audio_token_index=audio_id,
        tie_word_embeddings=False,
    )
    return drawn(Qwen2AudioForConditionalGeneration(config), processor, dtype)


def at_rest(loaded: LoadedModel, weights: Format) -> LoadedModel:
    """The model with its matrices quantised in place."""
    quantize_layers(loaded.model, layer_formats(loaded.model, weights))
    return LoadedModel(loaded.model, loaded.processor, replace(loaded.spec, weights=weights))


def dequantized(loaded: LoadedModel) -> LoadedModel:
    """A plain model with the numbers that a model at rest computes with: what the oracle is made of."""
    model = copy.deepcopy(loaded.model)
    for path, module in loaded.model.named_modules():
        if isinstance(module, QuantizedLinear):
            plain = torch.nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
            plain.weight = torch.nn.Parameter(module.matrix.dequantize(loaded.dtype), requires_grad=False)
            plain.bias = model.get_submodule(path).bias
            model.set_submodule(path, plain)
    return LoadedModel(model, loaded.processor, replace(loaded.spec, weights="bfloat16"))


def make_adapter(
    loaded: LoadedModel, folder: Path, seed: int, saved: bool = True, std: float = 0.2, **config: Any
) -> Path:
    """A PEFT adapter with random weights, as `save_pretrained` writes it."""
    torch.manual_seed(seed)
    lora = LoraConfig(**({"r": 4, "lora_alpha": 16, "target_modules": QV} | config))
    model = get_peft_model(copy.deepcopy(loaded.model), lora, autocast_adapter_dtype=False)
    for path, parameter in model.named_parameters():
        if "lora_" in path and "magnitude" not in path:
            torch.nn.init.normal_(parameter, std=std)
        elif "magnitude" in path or "modules_to_save" in path or (parameter.requires_grad and path.endswith("bias")):
            parameter.data = parameter.data + 0.2 * torch.randn_like(parameter) * parameter.data.abs().mean()
    with warnings.catch_warnings():  # PEFT takes a bias of lora_B for a tensor that lost a dimension
        warnings.filterwarnings("ignore", "Adapter 'default'.*invalid shape")
        model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def make_head(folder: Path, seed: int = 0, hidden: int = 0, width: int = 32) -> Path:
    """A random classification head for the random model."""
    drawn = torch.Generator().manual_seed(seed)
    config = HeadConfig(labels=("high", "low", "silence"), width=width, hidden=hidden, temperature=1.5)
    tensors = {name: torch.randn(shape, generator=drawn) for name, shape in config.shapes.items()}
    tensors |= {"scale": tensors["scale"].abs() + 1, "weight": 0.2 * tensors["weight"]}
    Head(config, tensors).save(folder)
    return folder


def tone(frequency: float, seconds: float, rate: int = 16_000) -> np.ndarray:
    """A tone with harmonics and a little noise, float32 [samples]."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(int(frequency)).standard_normal(len(time))
    wave = sum(np.sin(2 * np.pi * frequency * k * time) / k for k in (1, 2, 3))
    return (0.2 * wave + 0.01 * noise).astype(np.float32)


def recording(samples: np.ndarray, rate: int = 16_000) -> Recording:
    """Samples as the audio room would hand them on."""
    import hashlib

    seconds = len(samples) / rate
    receipt = Receipt(
        container="WAV",
        codec="PCM_16",
        sample_rate=rate,
        channels=1,
        seconds=seconds,
        seconds_used=seconds,
        peak=float(np.abs(samples).max()),
        clipped=0.0,
        silent=False,
        rms_dbfs=-20.0,
        warnings=[],
    )
    return Recording(samples, rate, receipt, hashlib.sha256(samples.tobytes()).hexdigest())


def clips_of(loaded: LoadedModel, *waves: np.ndarray) -> list[Clip]:
    extractor = FeatureExtractor(loaded.processor)
    return [clip for wave in waves for clip in extractor.clips(recording(wave))]


def mix_adapters(loaded: LoadedModel, parts: Sequence[tuple[Path, float]]) -> Any:
    """PEFT's own weighted mix: `add_weighted_adapter(combination_type="cat")`."""
    names = [f"a{index}" for index in range(len(parts))]
    model = peft_model(loaded, parts[0][0], names[0])
    for name, (folder, _) in list(zip(names, parts, strict=True))[1:]:
        model.load_adapter(str(folder), name, autocast_adapter_dtype=False)
    model.add_weighted_adapter(names, [weight for _, weight in parts], "mixed", combination_type="cat")
    model.set_adapter("mixed", inference_mode=True)
    return model.eval()


def peft_model(loaded: LoadedModel, folder: Path, name: str = "one") -> Any:
    """Plain PEFT over a plain copy of the base model."""
    return PeftModel.from_pretrained(
        oracle_model(loaded), str(folder), adapter_name=name, autocast_adapter_dtype=False
    ).eval()


def oracle_model(loaded: LoadedModel) -> Any:
    """A fresh, unpatched model of the same class with the same weights."""
    config = type(loaded.model.config).from_dict(loaded.model.config.to_dict())
    model = type(loaded.model)(config).to(loaded.dtype)
    model.load_state_dict(loaded.model.state_dict())
    return model.eval().requires_grad_(False)


def oracle(model: Any, loaded: LoadedModel, messages: list[Message], waves: list[np.ndarray], new: int) -> list[int]:
    """Greedy token ids by plain `generate`, inputs made by the processor itself; the end token included."""
    processor = loaded.processor
    content = [
        {"type": "audio", "audio_url": ""} if isinstance(part, Clip) else {"type": "text", "text": part}
        for part in messages[-1].parts
        if isinstance(part, str) or not part.joined
    ]
    conversation = [{"role": messages[-1].role, "content": content}]
    text = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    audio = {"audio": waves, "sampling_rate": 16_000} if waves else {}
    inputs = processor(text=text, return_tensors="pt", **audio)
    eos = sorted(PromptRenderer(processor).eos_ids)
    output = model.generate(
        **inputs, max_new_tokens=new, do_sample=False, eos_token_id=eos, pad_token_id=eos[0], num_beams=1
    )
    ids: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
    return ids


def greedy(new: int) -> SamplingParams:
    return SamplingParams(max_new_tokens=new)
