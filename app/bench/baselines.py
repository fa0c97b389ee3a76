"""The baselines: transformers' `generate`, and PEFT's two ways over it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from app.bench.workload import Case, make_clip, make_prompt
from app.engine.lora.peft_fallback import shell_of
from app.models.features import Clip
from app.models.loading import LoadedModel


class Baselines:
    """Plain models over the same weights. Build it before an engine patches the model."""

    def __init__(self, loaded: LoadedModel, adapters: Mapping[str, Path]) -> None:
        from peft import PeftModel

        self._loaded = loaded
        self._plain: Any = shell_of(loaded.model)
        names = list(adapters)
        self._peft: Any = PeftModel.from_pretrained(
            shell_of(loaded.model), str(adapters[names[0]]), adapter_name=names[0], autocast_adapter_dtype=False
        )
        for name in names[1:]:
            self._peft.load_adapter(str(adapters[name]), name, autocast_adapter_dtype=False)
        self._peft.eval()

    def transformers(self, case: Case, new_tokens: int) -> None:
        """One batch through `generate`, base model only."""
        self._generate(self._plain, _clips(self._loaded, case), new_tokens)

    def peft_by_turns(self, case: Case, new_tokens: int) -> None:
        """Each request alone, `set_adapter` before it."""
        for index, clip in enumerate(_clips(self._loaded, case)):
            self._peft.set_adapter(case.adapter_of(index), inference_mode=True)
            self._generate(self._peft, [clip], new_tokens)

    def peft_mixed(self, case: Case, new_tokens: int) -> None:
        """One batch, with PEFT's `adapter_names`, one per row."""
        names = [case.adapter_of(index) for index in range(case.requests)]
        self._generate(self._peft, _clips(self._loaded, case), new_tokens, adapter_names=names)

    @torch.inference_mode()
    def _generate(self, model: Any, clips: list[Clip], new_tokens: int, **options: Any) -> None:
        device = self._loaded.device
        ids = torch.tensor([make_prompt(self._loaded, clip) for clip in clips], device=device)
        mel = torch.stack([clip.mel for clip in clips]).to(device)
        frames = torch.tensor([clip.frames for clip in clips], device=device)
        valid = torch.arange(mel.shape[2], device=device) < frames[:, None]
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **self._loaded.family.inputs(mel, valid.long()),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            **options,
        )


def _clips(loaded: LoadedModel, case: Case) -> list[Clip]:
    return [make_clip(loaded, index, case.seconds) for index in range(case.requests)]
