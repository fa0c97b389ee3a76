"""A small tokenizer cut out of Whisper's (GPT-2's byte pairs), and what each token is made of there.

Answers begin without a space and in lower case; Whisper begins with a space and a capital. The table says
which of Whisper's embeddings a token starts from, so that the first word is read as Whisper reads it.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from training.pretrain import whisper

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
START, BREAK = "assistant", "Ċ"  # the last two tokens of a prompt: they play Whisper's two start tokens
START_MERGE = ("ass", "istant")  # not one of Whisper's: makes START one token, found nowhere else in a prompt
SPACE = "Ġ"
MARK, QUERY_END = "<|im_start|>", "<|im_end|>"


def source_tokenizer() -> Tokenizer:
    """Whisper's own tokenizer, without a space put before the first word."""
    tokenizer = Tokenizer.from_file(str(whisper.package_folder() / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def cut(texts: Iterable[str], always: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Keep the tokens that `always` needs and the most frequent ones of `texts`, `size` with the special ones."""
    source = source_tokenizer()
    merges = _merges()
    ranks = {left + right: (place, left, right) for place, (left, right) in enumerate(merges)}
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    kept = set(alphabet)
    room = size - len(SPECIAL)
    frequent = _counted(source, texts)
    for token in [START, *_counted(source, always), *frequent]:
        whole = _parents(token, ranks)
        if len(kept | whole) <= room:
            kept |= whole
    ids = {token: place for place, token in enumerate(sorted(kept, key=lambda token: (len(token) > 1, token)))}
    pairs = [(left, right) for left, right in merges if left + right in ids and left in ids and right in ids]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=QUERY_END,
        pad_token=SPECIAL[0],
        additional_special_tokens=SPECIAL,
        padding_side="left",
        model_max_length=2048,
    )


def origins(tokenizer: PreTrainedTokenizerFast) -> list[tuple[list[int], list[int]]]:
    """Per token: ids of Whisper's tokens whose mean its input row and its output row start from."""
    known = source_tokenizer().get_vocab()
    rows = []
    for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer))):
        bare = token.removeprefix(SPACE)
        capital = SPACE + bare.capitalize()
        if token == QUERY_END:
            rows.append(([whisper.END], [whisper.END]))
        elif token in SPECIAL:
            rows.append(([], []))
        elif token in (START, BREAK):
            own = whisper.START if token == START else whisper.NO_TIMESTAMPS
            rows.append(([own], [known[token]] if token in known else []))
        elif len(bare) > 1 and bare.isalpha() and bare.islower() and token == bare and capital in known:
            rows.append(([known[capital]], [known[capital]]))
        else:
            rows.append(([known[token]], [known[token]]))
    return rows


def _counted(source: Tokenizer, texts: Iterable[str]) -> list[str]:
    """The tokens of texts, most frequent first."""
    counts: Counter[str] = Counter()
    for encoding in source.encode_batch(list(texts), add_special_tokens=False):
        counts.update(encoding.tokens)
    return [token for token, _ in counts.most_common()]


def _parents(token: str, ranks: dict[str, tuple[int, str, str]]) -> set[str]:
    """The token with all the tokens that it is merged from."""
    if token not in ranks:
        return {token}
    _, left, right = ranks[token]
    return {token} | _parents(left, ranks) | _parents(right, ranks)


def _merges() -> list[tuple[str, str]]:
    """Whisper's byte-pair merges in order."""
    path: Path = whisper.package_folder() / "tokenizer.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["model"]["merges"]
    pairs = [row if isinstance(row, list) else row.split(" ", 1) for row in rows]
    return [*((left, right) for left, right in pairs), START_MERGE]
