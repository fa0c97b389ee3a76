"""Whisper tiny.en as a teacher: its encoder's features over the whole window, and the words that it expects next.

Its vocabulary is cut to the tokens that stand for one of the student's: " Press" and " press" both for "press" at the
beginning of an answer, " 10" for " ten". What it expects besides (full stops, other figures) counts for the right word.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor, WhisperForConditionalGeneration

from training.pretrain import vocabulary, whisper
from training.pretrain.text.wording import say_number

WINDOW_S = 30
WEIGHTS, MAP = "teacher.safetensors", "teacher.json"
BESIDES = (".", ",", "?", "!", "...", "-", "Ġ-", 'Ġ"', '"', "Ġ(", "Ġ[", "Ġ♪", "Ġ$", ":", ";", '."', '!"', '?"')
BEGIN = (0, 1)  # rows of the two tokens that Whisper's answers begin with
FIGURES = 100  # numbers below it, where a figure stands for one word
Pairs = list[tuple[int, int]]  # row of the cut vocabulary, token of the student


@dataclass(frozen=True)
class Map:
    """Rows of the cut vocabulary: what is fed for a student's token, and which rows speak for which token."""

    fed_first: list[int]
    fed_later: list[int]
    first: Pairs
    later: Pairs


class Teacher(nn.Module):
    """The teacher on a device; it never trains."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Read what `cut` wrote."""
        super().__init__()
        table = Map(**json.loads((folder / MAP).read_text(encoding="utf-8")))
        weights = load_file(folder / WEIGHTS)
        rows = len(weights["model.decoder.embed_tokens.weight"])
        self.model = whisper.untrained(rows)
        self.model.load_state_dict(weights | {"proj_out.weight": weights["model.decoder.embed_tokens.weight"]})
        half = torch.half if device.type == "cuda" else torch.float
        self.model.to(device, half).eval().requires_grad_(False)
        self.extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_S)
        self.fed = [torch.tensor(fed, device=device) for fed in (table.fed_first, table.fed_later)]
        self.pairs = [torch.tensor(pairs, device=device).T for pairs in (table.first, table.later)]

    @torch.no_grad()
    def states(self, mel: Tensor) -> Tensor:
        """Encode mel [clips, 80, frames], silence appended up to the window; return states [clips, 1500, 384]."""
        encoder = self.model.model.encoder
        frames = 100 * WINDOW_S
        if not len(mel):
            return mel.new_zeros(0, frames // 2, whisper.WIDTH)
        mel = mel[..., :frames]
        silence = mel.amin((1, 2), keepdim=True).expand(-1, mel.shape[1], frames - mel.shape[2])
        mel = torch.cat([mel, silence], 2).to(encoder.conv1.weight.dtype)
        hidden = functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(mel)))).permute(0, 2, 1)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        for layer in encoder.layers:
            hidden = layer(hidden, None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        found: Tensor = hidden
        return found

    @torch.no_grad()
    def features(self, hidden: Tensor) -> Tensor:
        """Targets of a tower that pools pairs of positions: [clips, 750, 384]."""
        norm = self.model.model.encoder.layer_norm
        found: Tensor = norm(functional.avg_pool1d(hidden.permute(0, 2, 1), 2).permute(0, 2, 1))
        return found

    @torch.no_grad()
    def expects(self, hidden: Tensor, answers: Tensor, counted: Tensor, width: int) -> Tensor:
        """Shares [words, width] that each of the student's tokens is expected with.

        `answers` [clips, tokens] are the student's ids, left-aligned, `counted` says which of them are asked for.
        """
        begin = torch.tensor([BEGIN], device=answers.device)
        fed = self.fed[1][answers]
        fed[:, 0] = self.fed[0][answers[:, 0]]
        ids = torch.cat([begin.expand(len(answers), -1), fed[:, :-1]], 1)
        states = self.model.model.encoder.layer_norm(hidden)
        output = self.model.model.decoder(input_ids=ids, encoder_hidden_states=states, use_cache=False)
        said = output.last_hidden_state[:, 1:]
        shares = self.model.proj_out(said[counted]).float().softmax(-1)
        first = torch.zeros_like(counted)
        first[:, 0] = True
        first = first[counted]
        mapped = shares.new_zeros(len(shares), width)
        for place, chosen in ((0, first), (1, ~first)):
            rows, columns = self.pairs[place]
            mapped[chosen] = shares.new_zeros(int(chosen.sum()), width).index_add_(1, columns, shares[chosen][:, rows])
        own = answers[counted][:, None]
        rest = (1 - mapped.sum(1, keepdim=True)).clamp(min=0)
        found: Tensor = mapped.scatter_add_(1, own, rest)
        return found


def cut(tokenizer: PreTrainedTokenizerFast, target: Path) -> None:
    """Write the teacher for a student's tokenizer."""
    target.mkdir(parents=True, exist_ok=True)
    known = vocabulary.source_tokenizer().get_vocab()
    kept = [whisper.START, whisper.NO_TIMESTAMPS, whisper.END, *(known[sign] for sign in BESIDES if sign in known)]
    rows = {token: place for place, token in enumerate(dict.fromkeys(kept))}

    def row(token: str) -> int:
        return rows.setdefault(known[token], len(rows))

    figures = {say_number(number): str(number) for number in range(FIGURES)}
    fed_first, fed_later = [], []
    first: dict[int, int] = {}
    later: dict[int, int] = {}
    for place, token in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
        word = token.removeprefix(vocabulary.SPACE)
        begins = word == token and word[:1].isalpha()
        spoken = [vocabulary.SPACE + form for form in _forms(word, figures)] if word else []
        spoken = [form for form in spoken if form in known]
        fed_later.append(row(token) if token in known else 0)
        fed_first.append(row(spoken[0]) if begins and spoken else fed_later[-1])
        if token not in known or not re.fullmatch("[a-z']+", word):
            continue  # transcripts have no such token
        if begins:
            first |= {row(form): place for form in reversed(spoken)}
        later |= {row(form): place for form in ([token] if begins else [token, *spoken])}
    save_file(_weights(rows), target / WEIGHTS, {"format": "pt"})
    table = Map(fed_first, fed_later, sorted(first.items()), sorted(later.items()))
    (target / MAP).write_text(json.dumps(vars(table)), encoding="utf-8")


def _forms(word: str, figures: dict[str, str]) -> list[str]:
    """Spellings that Whisper may give a word: with a capital, as it is, in capitals, as a figure."""
    forms = [word.capitalize(), word, word.upper()]
    return [*forms, figures[word]] if word in figures else forms


def _weights(rows: dict[int, int]) -> dict[str, Tensor]:
    """Whisper's weights in fp16, with those rows of its vocabulary."""
    source: WhisperForConditionalGeneration = whisper.load()
    weights = {name: value.half() for name, value in source.state_dict().items() if name != "proj_out.weight"}
    table = "model.decoder.embed_tokens.weight"
    weights[table] = weights[table][list(rows)].contiguous()
    return weights
