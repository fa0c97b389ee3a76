"""The likely reason why tensors fit no layer of the base: another model, or a tool that renamed them."""

from collections.abc import Sequence
from difflib import get_close_matches

from app.models.loading import BaseSpec
from app.registry.adapter_files.keys import Name
from app.registry.adapter_files.report import some

# The first that fits counts: beginnings of names, and the models that have them
_MODELS = (
    ("thinker.", "Qwen2.5-Omni or Qwen3-Omni"),
    ("talker.", "Qwen2.5-Omni or Qwen3-Omni"),
    ("model.encoder.", "Whisper or another encoder-decoder"),
    ("model.decoder.", "Whisper or another encoder-decoder"),
    ("visual.", "a vision-language model"),
    ("model.visual.", "a vision-language model"),
    ("vision_tower.", "a vision-language model"),
    ("model.vision_tower.", "a vision-language model"),
    ("transformer.h.", "GPT-2, Qwen 1 or a relative"),
    ("gpt_neox.", "GPT-NeoX"),
    ("wav2vec2.", "wav2vec 2.0"),
    ("roberta.", "RoBERTa"),
    ("bert.", "BERT"),
    ("model.layers.", "a text model such as Llama, Qwen or Mistral"),
    ("layers.", "the language model alone, without the model around it"),
)
_WRAPPERS = (
    ("_fsdp_wrapped_module.", "FSDP"),
    ("_orig_mod.", "torch.compile"),
    ("module.", "DataParallel or DistributedDataParallel"),
    ("_checkpoint_wrapped_module.", "activation checkpointing"),
)
_LONGEST = 200  # characters compared with the layers' names


def explain(unplaced: Sequence[Name], spec: BaseSpec, trained_over: str | None) -> str:
    """One sentence for tensors that fit no layer. Compares one name with the layers' names, not each."""
    names = [name.written for name in unplaced]
    found = [f"{len(names)} tensors fit no layer of this base: {some(names)}"]
    if (wrapper := _wrapper(names[0])) is not None:
        found.append(wrapper)
    elif (model := next((model for start, model in _MODELS if names[0].startswith(start)), None)) is not None:
        over = f", and its configuration names {trained_over[:80]!r}" if trained_over else ""
        found.append(f"these are names of {model}{over}: an adapter works over its own base alone")
    nearest = get_close_matches(_layer(unplaced[0].path), spec.linears, n=1, cutoff=0.3)
    if nearest:
        found.append(f"the nearest layer here is {nearest[0]}")
    return "; ".join(found)


def _wrapper(name: str) -> str | None:
    for part, tool in _WRAPPERS:
        if name.startswith(part) or f".{part}" in name:
            return f"`{part}` in them comes from {tool}: save the adapter from the model inside the wrapper"
    for part in (".default.", ".modules_to_save."):
        if part in f"{name}.":
            return f"`{part[1:-1]}` in them is PEFT's own, left by saving a state_dict: use save_pretrained"
    return None


def _layer(path: str) -> str:
    for part in (".lora_", ".ia3_", ".hada_", ".lokr_", ".oft_"):
        path = path.partition(part)[0]
    return path[:_LONGEST]
