"""From a conversation to token ids, by the model's own chat template. Server and trainer share it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.errors import BadRequest
from app.model.features import Clip

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn: text and clips in the order in which they are said."""

    role: Role
    parts: tuple[str | Clip, ...]


# byte-level BPE writes each byte as a printable character (GPT-2): those that are printable as themselves,
# the others, in order, from 256 on
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + place): byte for place, byte in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))
}


class PromptRenderer:
    """Renders with the chat template; each clip stands as its number of audio tokens."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._audio_token: str = processor.audio_token
        self._reserved = sorted(self._tokenizer.all_special_tokens, key=len, reverse=True)
        self.eos_ids = frozenset(self._tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))

    def render(self, messages: Sequence[Message], *, answer: str | None = None) -> list[int]:
        """Token ids of the prompt, up to where the assistant's answer begins.

        With ``answer`` (training), the answer and its `<|im_end|>` follow.
        Raises BadRequest when a text holds one of the model's control tokens.
        """
        text = self._processor.apply_chat_template(
            [self._template_form(message) for message in messages], add_generation_prompt=True, tokenize=False
        )
        ids = self._ids(self._expand(text, messages))
        if answer is not None:
            self._refuse_reserved(answer)
            ids += self._ids(f"{answer}<|im_end|>")  # apart, as in serving: no token spans the prompt's end
        return ids

    def answer_spans(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Where the assistant speaks in rendered ids: [start, end) of each answer, its `<|im_end|>` included."""
        header, end = self._ids("<|im_start|>assistant\n"), self._ids("<|im_end|>")[0]
        spans, place = [], 0
        while place < len(ids):
            if list(ids[place : place + len(header)]) != header:
                place += 1
                continue
            start = place = place + len(header)
            while place < len(ids) and ids[place] != end:
                place += 1
            if place < len(ids):
                spans.append((start, place + 1))
        return spans

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of answer tokens, control tokens left out."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def token_bytes(self, token: int) -> bytes:
        """What one token stands for; of byte-level BPE that may be half a character."""
        piece: str = self._tokenizer.convert_ids_to_tokens(token) or ""
        if token in self._tokenizer.added_tokens_decoder:
            return piece.encode()
        return bytes(_BYTES[character] for character in piece)

    def _template_form(self, message: Message) -> dict[str, Any]:
        content = []
        for part in message.parts:
            if isinstance(part, Clip):
                content.append({"type": "audio", "audio_url": ""})
            else:
                self._refuse_reserved(part)
                content.append({"type": "text", "text": part})
        if len(content) == 1 and content[0]["type"] == "text":
            return {"role": message.role, "content": content[0]["text"]}
        return {"role": message.role, "content": content}

    def _expand(self, text: str, messages: Sequence[Message]) -> str:
        """Each audio placeholder becomes as many audio tokens as its clip has."""
        clips = [part for message in messages for part in message.parts if isinstance(part, Clip)]
        pieces = text.split(self._audio_token)
        return pieces[0] + "".join(
            self._audio_token * clip.tokens + piece for clip, piece in zip(clips, pieces[1:], strict=True)
        )

    def _refuse_reserved(self, text: str) -> None:
        for token in self._reserved:
            if token in text:
                raise BadRequest(f"The text holds {token!r}, which steers the model itself; leave it out.")
