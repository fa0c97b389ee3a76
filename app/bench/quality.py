"""What formats of weights at rest cost: word errors, and the divergence of the next token's distribution.

Measured through transformers' own modules, since the engine gives the same tokens.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from app.audio.decode import Limits, decode
from app.errors import BadRequest
from app.models.features import Clip, FeatureExtractor
from app.models.loading import LoadedModel, load
from app.models.prompt import PromptRenderer
from app.models.weights.at_rest import Weights
from app.service.generation import DEFAULT_PROMPT, Conversation

_LIMITS = Limits(600.0, 1 << 26)
NEW_TOKENS = 96


@dataclass(frozen=True)
class Quality:
    """One format over all recordings. ``wer``: share of words. Divergences in nats, from the unquantised model's next
    token to this one's, over the tokens of the unquantised answers; ``changed``: share of tokens that would differ."""

    weights: str
    gigabytes: float
    wer: float
    mean_divergence: float
    largest_divergence: float
    changed: float

    def as_dict(self) -> dict[str, float | str]:
        return asdict(self)


@dataclass(frozen=True)
class _Question:
    """A recording's prompt and clips, and the words that are said."""

    prompt: list[int]
    clips: Sequence[Clip]
    words: str


def measure_quality(
    model: str,
    formats: Sequence[Weights],
    table: Path,
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[str], None] = lambda what: None,
) -> Iterator[Quality]:
    """One result per format, the unquantised model's first. ``table``: tab-separated, columns ``file`` and ``text``.

    Raises BadRequest for a table that cannot be used, and what loading raises.
    """
    loaded = load(model, device, dtype, "bfloat16")
    questions = _questions(loaded, _rows(table))
    answers, expected = [], []
    for number, question in enumerate(questions, 1):
        progress(f"unquantised: {number} of {len(questions)}")
        answers.append(_answer(loaded, question))
        expected.append(_log_probabilities(loaded, question, answers[-1]))
    yield Quality("bfloat16", _gigabytes(loaded), _word_errors(loaded, questions, answers), 0.0, 0.0, 0.0)
    for weights in formats:
        del loaded
        loaded = load(model, device, dtype, weights)
        own, divergences, changed = [], [], []
        for number, (question, answer, wanted) in enumerate(zip(questions, answers, expected, strict=True), 1):
            progress(f"{weights}: {number} of {len(questions)}")
            own.append(_answer(loaded, question))
            found = _log_probabilities(loaded, question, answer)
            divergences.append((wanted.exp() * (wanted - found)).sum(-1))
            changed.append(wanted.argmax(-1) != found.argmax(-1))
        divergence = torch.cat(divergences)
        yield Quality(
            weights,
            _gigabytes(loaded),
            _word_errors(loaded, questions, own),
            float(divergence.mean()),
            float(divergence.max()),
            float(torch.cat(changed).float().mean()),
        )


def _rows(table: Path) -> list[tuple[Path, str]]:
    """Recordings and what is said in them."""
    try:
        with table.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{table} cannot be read: {error}") from None
    found = [(table.parent / row["file"], row["text"]) for row in rows if row.get("file") and row.get("text")]
    if not found or len(found) < len(rows):
        raise BadRequest(f"{table} needs the columns file and text, with a tab between them, filled in every row.")
    if missing := [file for file, _ in found if not file.is_file()]:
        raise BadRequest(f"{table} names {missing[0]}, which is not there.")
    return found


def _questions(loaded: LoadedModel, rows: Sequence[tuple[Path, str]]) -> list[_Question]:
    features, prompts, found = FeatureExtractor(loaded.processor), PromptRenderer(loaded.processor), []
    for file, words in rows:
        clips = features.clips(decode(file.read_bytes(), rate=features.sample_rate, limits=_LIMITS))
        prompt = prompts.render(Conversation.single_turn([clips], DEFAULT_PROMPT).messages)
        found.append(_Question(list(prompt), clips, words))
    return found


def _inputs(loaded: LoadedModel, question: _Question, answer: Sequence[int] = ()) -> dict[str, torch.Tensor]:
    """Arguments of the model's forward."""
    mels = torch.stack([clip.mel for clip in question.clips])
    frames = torch.tensor([clip.frames for clip in question.clips])
    valid = (torch.arange(mels.shape[-1]) < frames[:, None]).long()
    ids = torch.tensor([[*question.prompt, *answer]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs |= loaded.family.inputs(mels.to(loaded.dtype), valid)
    return {name: tensor.to(loaded.device) for name, tensor in inputs.items()}


@torch.inference_mode()
def _answer(loaded: LoadedModel, question: _Question) -> list[int]:
    """The greedy answer, its end included."""
    ends = sorted(PromptRenderer(loaded.processor).eos_ids)
    ids: Any = loaded.model.generate(
        **_inputs(loaded, question), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
    )
    return [int(token) for token in ids[0, len(question.prompt) :]]


@torch.inference_mode()
def _log_probabilities(loaded: LoadedModel, question: _Question, answer: Sequence[int]) -> torch.Tensor:
    """Of the next token, before each token of an answer [tokens, vocabulary], on the CPU."""
    logits = loaded.model(**_inputs(loaded, question, answer)).logits[0, len(question.prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), -1).cpu()


def _word_errors(loaded: LoadedModel, questions: Sequence[_Question], answers: Sequence[Sequence[int]]) -> float:
    """Substituted, missing and additional words, as a share of those said; case and punctuation do not count."""
    try:
        import jiwer
    except ModuleNotFoundError:
        raise BadRequest("Word errors need jiwer: pip install 'overtone[train]'") from None

    texts = [loaded.processor.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
    errors: float = jiwer.wer([_plain(question.words) for question in questions], [_plain(text) for text in texts])
    return errors


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s']", " ", text.lower()).split())


def _gigabytes(loaded: LoadedModel) -> float:
    size: int = sum(parameter.nbytes for parameter in loaded.model.parameters())
    return size / 1e9
