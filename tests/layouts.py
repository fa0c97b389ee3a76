"""Models with the module paths of older transformers, so that PEFT trains and saves adapters as it did there."""

from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from app.models.loading import LoadedModel
from tests.support import oracle_model

WEIGHTS = "adapter_model.safetensors"
# Where the language model's layers are in each layout
PATHS = {
    "older": "language_model.model.layers.",
    "between": "language_model.layers.",
    "today": "model.language_model.layers.",
}


class Older(nn.Module):
    """Qwen2-Audio as before transformers 5: `language_model.model.layers`, `audio_tower`, `language_model.lm_head`."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.audio_tower = whole.model.audio_tower
        self.multi_modal_projector = whole.model.multi_modal_projector
        self.language_model = nn.Module()
        self.language_model.model = whole.model.language_model
        self.language_model.lm_head = whole.lm_head
        self.__dict__["whole"] = whole  # not a submodule: its paths must not be seen

    def forward(self, **inputs: Any) -> Any:
        whole = self.__dict__["whole"]
        whole.model.audio_tower = self.audio_tower
        whole.model.multi_modal_projector = self.multi_modal_projector
        whole.model.language_model = self.language_model.model
        whole.lm_head = self.language_model.lm_head
        return whole(**inputs)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.model.embed_tokens


class Between(Older):
    """As transformers itself writes it for a while: `language_model.layers`, `lm_head` at the top."""

    def __init__(self, whole: Any) -> None:
        super().__init__(whole)
        self.language_model = whole.model.language_model
        self.lm_head = whole.lm_head

    def forward(self, **inputs: Any) -> Any:
        whole = self.__dict__["whole"]
        whole.model.audio_tower = self.audio_tower
        whole.model.multi_modal_projector = self.multi_modal_projector
        whole.model.language_model = self.language_model
        whole.lm_head = self.lm_head
        return whole(**inputs)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embed_tokens


LAYOUTS = {"older": Older, "between": Between, "today": lambda whole: whole}


def trained(loaded: LoadedModel, layout: str, config: Any, seed: int = 0) -> Any:
    """A PEFT model of that layout whose adapter has random weights."""
    torch.manual_seed(seed)
    model = get_peft_model(LAYOUTS[layout](oracle_model(loaded)), config, autocast_adapter_dtype=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + 0.3 * torch.randn_like(parameter)
    return model.eval()


def save(model: Any, folder: Path, prefix: bool = True) -> Path:
    """What PEFT saves; without ``prefix``, as tools do that save a state_dict of the model inside."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    if not prefix:
        tensors = load_file(folder / WEIGHTS)
        save_file({key.removeprefix("base_model.model."): tensor for key, tensor in tensors.items()}, folder / WEIGHTS)
    return folder


def logits(model: Any, loaded: LoadedModel) -> torch.Tensor:
    """Logits of a prompt with audio, in which every layer has its part."""
    drawn = torch.Generator().manual_seed(3)
    audio = loaded.model.config.audio_token_id
    ids = torch.tensor([[65, 66, 1, *[audio] * 25, 67, 2, 3, 68]])
    mel = torch.randn(1, 128, 200, generator=drawn)
    mask = (torch.arange(200) < 100).long()[None]
    with torch.no_grad():
        found: torch.Tensor = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), input_features=mel, feature_attention_mask=mask
        ).logits
    return found
