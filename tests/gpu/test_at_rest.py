"""What weights at rest cost in quality: on the embedded model and human recordings, by the engine's own answers."""

import csv
import queue
from pathlib import Path
from typing import Any

import pytest
import torch

from app.audio.decode import Limits, Recording, decode
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.memory import plan_memory
from app.engine.request import Done, Request
from app.engine.sampling_params import SamplingParams
from app.models.features import FeatureExtractor
from app.models.loading import load
from app.models.prompt import PromptRenderer
from app.registry.local import LocalRegistry
from app.service.generation import DEFAULT_PROMPT, Conversation
from app.settings import EMBEDDED_MODEL

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
HUMAN = Path(__file__).parents[1] / "data" / "human"


def human_clips() -> list[tuple[Recording, str]]:
    """Recordings and what is said in them."""
    with (HUMAN / "transcripts.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    limits = Limits(60.0, 1 << 26)
    return [(decode((HUMAN / row["file"]).read_bytes(), rate=16_000, limits=limits), row["text"]) for row in rows]


def transcribe(root: Path, weights: Any) -> tuple[list[str], list[torch.Tensor]]:
    """Answers to all human clips, and the log probabilities of every step, clip after clip."""
    loaded = load(str(EMBEDDED_MODEL), torch.device("cuda"), torch.bfloat16, weights)
    registry = LocalRegistry(root, loaded.spec, max_rank=64, keep_versions=2)
    registry.open()
    limits = EngineConfig(4, 4, 64, 512, 1024, 1 << 20, 1 << 20)
    engine = Engine(loaded, registry, limits, plan_memory(loaded, 0.5, limits))
    steps: list[torch.Tensor] = []
    step = engine.runner._logits

    def spy(chunks: list[Any]) -> torch.Tensor:
        logits = step(chunks)
        steps.append(logits.float().log_softmax(-1).clone())
        return logits

    engine.runner._logits = spy  # type: ignore[method-assign]
    engine.start()
    features, prompts, answers = FeatureExtractor(loaded.processor), PromptRenderer(loaded.processor), []
    try:
        for recording, _ in human_clips():
            clips = features.clips(recording)
            events: queue.Queue[Any] = queue.Queue()
            prompt = tuple(prompts.render(Conversation.single_turn([clips], DEFAULT_PROMPT).messages))
            engine.submit(Request(prompt, tuple(clips), (), SamplingParams(max_new_tokens=64), events.put))
            while not isinstance(event := events.get(timeout=120), Done):
                pass
            answers.append(event.text)
    finally:
        engine.close()
    return answers, steps


@pytest.mark.parametrize(("weights", "allowed"), [("float8", 0.02), ("int8", 0.01), ("int4", 0.03)])
def test_weights_at_rest_cost_little(tmp_path, capsys, weights, allowed):
    jiwer = pytest.importorskip("jiwer")
    said = [words for _, words in human_clips()]
    full, full_steps = transcribe(tmp_path / "full", "bfloat16")
    small, small_steps = transcribe(tmp_path / "small", weights)
    errors = [jiwer.wer(said, heard) for heard in (full, small)]
    divergences = []
    for one, other in zip(full_steps, small_steps, strict=False):
        divergences.append(float((one.exp() * (one - other)).sum(-1).mean()))
        if not torch.equal(one.argmax(-1), other.argmax(-1)):
            break  # from here on they continue different words
    with capsys.disabled():
        print(  # noqa: T201, the figure is the point
            f"\n{weights}, overtone-tiny, {len(said)} human clips: WER {100 * errors[0]:.1f} % in bfloat16, "
            f"{100 * errors[1]:.1f} % with {weights}; KL {max(divergences):.1e} at most over {len(divergences)} steps"
        )
    assert max(divergences) > 0, "the smaller weights were not used"
    assert errors[1] < errors[0] + allowed
