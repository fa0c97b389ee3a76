"""The expected answers: each request alone through `generate` of transformers and PEFT, without the engine."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from app.bench.over_http import RATE
from app.bench.soak.workload import NEW_TOKENS, PROMPTS, Adapter, Parts, Sound, combinations
from app.engine.lora.peft_fallback import shell_of
from app.models.loading import LoadedModel
from app.models.prompt import PromptRenderer

Key = tuple[Parts, int, int]  # weights, number of the sound, number of the prompt
ExpectedTexts = Mapping[Key, str]


def texts(
    loaded: LoadedModel, adapters: Mapping[str, Adapter], sounds: Sequence[Sound], progress: Callable[[str], None]
) -> dict[Key, str]:
    """The greedy answer to every question that the soak may ask. ``loaded``: not patched by an engine."""
    inputs = {
        (s, p): _inputs(loaded, sound, prompt) for s, sound in enumerate(sounds) for p, prompt in enumerate(PROMPTS)
    }
    found: dict[Key, str] = {}
    everything = combinations()
    for number, parts in enumerate(everything, start=1):
        progress(f"what PEFT answers: {number} of {len(everything)} sets of weights")
        model = _model(loaded, adapters, parts)
        for (sound, prompt), asked in inputs.items():
            found[parts, sound, prompt] = _generate(loaded, model, asked)
    return found


def _model(loaded: LoadedModel, adapters: Mapping[str, Adapter], parts: Parts) -> Any:
    """The base model, under PEFT where there are adapters; PEFT's own `cat` combination for a mix."""
    from peft import PeftModel

    plain = shell_of(loaded.model)
    if not parts:
        return plain
    names = [f"part{index}" for index in range(len(parts))]
    folders = [str(adapters[key].folder) for key, _ in parts]
    model = PeftModel.from_pretrained(plain, folders[0], adapter_name=names[0], autocast_adapter_dtype=False)
    if len(parts) > 1:
        for name, folder in zip(names[1:], folders[1:], strict=True):
            model.load_adapter(folder, name, autocast_adapter_dtype=False)
        model.add_weighted_adapter(names, [weight for _, weight in parts], "mixed", combination_type="cat")
        model.set_adapter("mixed", inference_mode=True)
    return model.eval()


def _inputs(loaded: LoadedModel, sound: Sound, prompt: str) -> Any:
    """Made by transformers' processor alone, from the samples."""
    text = loaded.family.prompt.render(loaded.processor, [("user", [None, prompt])])
    inputs = loaded.processor(text=text, audio=[sound.samples], sampling_rate=RATE, return_tensors="pt")
    return inputs.to(loaded.device)


@torch.inference_mode()
def _generate(loaded: LoadedModel, model: Any, inputs: Any) -> str:
    tokenizer = loaded.processor.tokenizer
    ends = sorted(PromptRenderer(loaded.processor).eos_ids)
    output = model.generate(
        **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=ends, pad_token_id=ends[0], num_beams=1
    )
    ids = output[0, inputs["input_ids"].shape[1] :]
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
