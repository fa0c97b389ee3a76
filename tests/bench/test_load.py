"""What the benchmark's clients ask, and what random weights answer."""

from functools import partial
from pathlib import Path

import httpx
import pytest
import torch
from transformers import Qwen2AudioConfig

from app.bench.over_http import Load, rate_of
from app.bench.workload import WORDS, make_clip, make_conversation, say_words
from app.cli.process import ServerProcess
from app.engine.sampling_params import SamplingParams
from app.models.qwen2_audio import QWEN2_AUDIO
from app.models.weights import random_weights as sizes
from app.service import GenerationInput, Service
from app.settings import EMBEDDED_MODEL, Settings

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
         "intermediate_size": 128}  # fmt: skip
SMALL_TOWER = {"model_type": "qwen2_audio_encoder", "d_model": 64, "encoder_layers": 1, "encoder_attention_heads": 4,
               "encoder_ffn_dim": 64}  # fmt: skip


def test_random_weights_answer_in_words_and_to_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = {"model_type": "qwen2", **QWEN2_AUDIO.sizes["7b"].text, **SMALL}
    config = partial(Qwen2AudioConfig, audio_config=SMALL_TOWER, text_config=text, tie_word_embeddings=False)
    audio = "<|AUDIO|>"
    small = lambda size, tokenizer: config(audio_token_index=tokenizer.convert_tokens_to_ids(audio))  # noqa: E731
    monkeypatch.setattr(sizes, "config_of", small)
    loaded = sizes.random_weights("7b", str(EMBEDDED_MODEL), torch.device("cpu"), torch.float32)
    service = Service.over(Settings(adapters=tmp_path, kv_gb=0.1), say_words(loaded))
    try:
        asked = make_conversation(make_clip(loaded, 1, 1.0))
        done = service.generate(GenerationInput(asked, sampling=SamplingParams(max_new_tokens=24)))
    finally:
        service.close()
    assert (done.finish_reason, done.completion_tokens) == ("length", 24)
    assert len(done.text) >= 12  # of 156032 rows of the head, most stand for no token and would say nothing


def test_every_client_asks_and_no_clip_is_heard_twice(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", "--adapters", str(tmp_path / "adapters")) as server:
        server.wait_ready(60)
        rate = rate_of(Load(server.url, WORDS, ["base"] * 3, 1.0, 4, rounds=2))
        told = httpx.get(f"{server.url}/metrics").text
    assert rate.tokens_per_second > 0
    assert 0 < rate.first_token_ms < 60_000
    counts = dict(line.split() for line in told.splitlines() if line.startswith("overtone_encoder_cache_"))
    assert {name: float(count) for name, count in counts.items()} == {
        "overtone_encoder_cache_hits_total": 0,
        "overtone_encoder_cache_misses_total": 3 * (1 + 2),
    }
