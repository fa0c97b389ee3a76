"""Whisper's decoder written into Qwen2 layers says what Transformers' Whisper says, before any training."""

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen2Model, WhisperForConditionalGeneration

from training.pretrain import layout, states, transplant, whisper

WORDS, SINK, BEGIN, BREAK = 60, 60, 61, 62  # words 0 … 59 are Whisper's tokens 1000 … 1059
FRAMES = 25


def _source() -> WhisperForConditionalGeneration:
    """A random Whisper, its weights large enough that attention is no mean."""
    torch.manual_seed(5)
    source = whisper.untrained().eval()
    with torch.no_grad():
        for name, weight in source.model.decoder.named_parameters():
            if "layers" in name:
                weight.mul_(3) if weight.dim() == 2 else weight.add_(0.1 * torch.randn_like(weight))
    return source


@pytest.fixture(scope="module")
def pair() -> tuple[WhisperForConditionalGeneration, Qwen2Model, nn.Linear, nn.Linear]:
    """The source, and what was made of it: language model, head, projector."""
    source = _source()
    clips = [1.2 * torch.randn(FRAMES, whisper.WIDTH) for _ in range(16)]
    spoken = [(1000 + torch.randint(WORDS, (12,))).tolist() for _ in clips]
    seen = states.collect(source, clips, spoken)
    model = Qwen2Model(transplant.config(BREAK + 1, 0, 0)).eval()
    head = nn.Linear(layout.HIDDEN, BREAK + 1, bias=False)
    projector = nn.Linear(whisper.WIDTH, layout.HIDDEN)
    origins: layout.Origins = [([1000 + word], [1000 + word]) for word in range(WORDS)]
    origins += [([], []), ([whisper.START], []), ([whisper.NO_TIMESTAMPS], [])]
    rows = layout.Rows(sink=SINK, begin=BEGIN)
    transplant.Transplant(source, seen).fill(model, head, projector, rows, origins)
    return source, model, head, projector


@torch.inference_mode()
def _both(
    pair: tuple[WhisperForConditionalGeneration, Qwen2Model, nn.Linear, nn.Linear], prompt: list[int], words: list[int]
) -> tuple[Tensor, Tensor]:
    """Logits over WORDS for each next word, by Whisper and by the transplant; `prompt` stands around the audio."""
    source, model, head, projector = pair
    features = 1.2 * torch.randn(FRAMES, whisper.WIDTH)
    tokens = torch.tensor([[whisper.START, whisper.NO_TIMESTAMPS, *(1000 + word for word in words)]])
    wanted = source.proj_out(source.model.decoder(input_ids=tokens, encoder_hidden_states=features[None])[0])
    table, ids = model.embed_tokens, torch.tensor
    before = table(ids([SINK, *prompt, SINK, *prompt]))
    after = table(ids([*prompt, SINK, BEGIN, BREAK, *words]))
    hidden = model(inputs_embeds=torch.cat([before, projector(features), after])[None]).last_hidden_state
    found = head(hidden)[0, -len(words) - 1 :, :WORDS]
    return wanted[0, 1:, 1000 : 1000 + WORDS], found


@pytest.mark.parametrize("prompt", [[3, 4, 5], [40, 9, 9, 30, 7, 7, 21, 8], [1]])
def test_the_next_word_is_whispers(
    pair: tuple[WhisperForConditionalGeneration, Qwen2Model, nn.Linear, nn.Linear], prompt: list[int]
) -> None:
    torch.manual_seed(len(prompt))
    wanted, found = _both(pair, prompt, torch.randint(WORDS, (14,)).tolist())
    assert (found - wanted).norm() < 0.55 * wanted.norm()  # unrelated logits differ by 1.4
    assert (found.argmax(1) == wanted.argmax(1)).float().mean() >= 0.5


def test_what_the_audio_holds_decides(
    pair: tuple[WhisperForConditionalGeneration, Qwen2Model, nn.Linear, nn.Linear],
) -> None:
    words = [5, 6, 7]
    torch.manual_seed(1)
    one = _both(pair, [3], words)
    other = _both(pair, [3], words)  # other features
    moved, expected = (one[1] - other[1]), (one[0] - other[0])
    assert expected.norm() > 0.02 * one[0].norm()
    assert (moved - expected).norm() < 0.5 * expected.norm()
