"""From a conversation to token ids, by the model's own chat template. Server and trainer share it."""

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from app.errors import BadRequest, PromptTooLong
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


BLOCK = 1 << 16  # characters that are tokenised at a time to learn whether a long text may fit
CUT = 256  # tokens by which cutting a text into blocks may change their number, for each cut
APART = f"\ufdd0{secrets.token_hex(16)}\ufdd0"  # between texts; of no text, since nobody knows it
SHRINKS = 4  # a tokenizer that composes characters (NFC) makes at most so many bytes one


class PromptRenderer:
    """Renders with the chat template; each clip stands as its number of audio tokens."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._audio_token: str = processor.audio_token
        self._reserved = sorted({*self._tokenizer.all_special_tokens, self._audio_token}, key=len, reverse=True)
        self._tokens = re.compile("|".join(map(re.escape, self._reserved)))
        self.eos_ids = frozenset(self._tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))

    def render(self, messages: Sequence[Message], *, answer: str | None = None, room: int | None = None) -> list[int]:
        """Token ids of the prompt, up to where the assistant's answer begins.

        With ``answer`` (training), the answer and its `<|im_end|>` follow. With ``room``, a prompt of at least so many
        tokens raises PromptTooLong, before time and memory go into it.
        Raises BadRequest when a text holds one of the model's control tokens.
        """
        if room is not None:
            self._refuse_long(messages, room)
        for part in (part for message in messages for part in message.parts if isinstance(part, str)):
            self._refuse_reserved(part)
        text = self._templated(messages)
        if self._holds_more(text, self._templated([_each_text(message, "x") for message in messages])):
            # put together from several texts: taken apart where they meet, it is words
            text = self._templated([_each_text(message, f"{APART}{{}}{APART}") for message in messages])
        clips = (part for message in messages for part in message.parts if isinstance(part, Clip))
        ids: list[int] = []
        for piece in self._pieces(text):
            if piece == self._audio_token:
                ids += self._ids(piece) * next(clips).tokens
            else:
                self._refuse_long_text(piece, room, len(ids))
                ids += self._ids(piece)
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

    def _templated(self, messages: Sequence[Message]) -> str:
        """The conversation as the model's template writes it, one audio token for each clip."""
        conversation = [_template_form(message) for message in messages]
        text: str = self._processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        return text

    def _pieces(self, text: str) -> Iterator[str]:
        """Control tokens and the texts between them, which the tokenizer takes apart in the same places."""
        place = 0
        for token in self._tokens.finditer(text):
            yield from filter(None, (*text[place : token.start()].split(APART), token[0]))
            place = token.end()
        yield from filter(None, text[place:].split(APART))

    def _refuse_reserved(self, text: str) -> None:
        """Raises BadRequest if the text holds a control token."""
        if token := self._tokens.search(text):
            raise BadRequest(f"The text holds {token[0]!r}, which steers the model itself; leave it out.")

    def _holds_more(self, text: str, template: str) -> bool:
        """Whether there are more control tokens than the template itself writes."""
        return any(text.count(token) > template.count(token) for token in self._reserved)

    def _refuse_long(self, messages: Sequence[Message], room: int) -> None:
        """Raises PromptTooLong for what can be seen without rendering: clips, and more bytes than tokens can hold."""
        parts = [part for message in messages for part in message.parts]
        clips = [part.tokens for part in parts if isinstance(part, Clip)]
        if sum(clips) >= room:
            raise too_long(f"{sum(clips)} tokens of audio", room)
        text = sum(len(part.encode(errors="replace")) for part in parts if isinstance(part, str))
        if text > room * self._longest * SHRINKS:
            raise too_long(f"{text >> 10} KB of text", room)

    def _refuse_long_text(self, text: str, room: int | None, before: int) -> None:
        """Raises PromptTooLong for a text that is tokenised block by block until it is too long."""
        if room is None or len(text) <= BLOCK:
            return
        for start in range(0, len(text), BLOCK):
            before += len(self._ids(text[start : start + BLOCK])) - CUT
            if before >= room:
                raise too_long(f"more than {before} tokens", room)

    @cached_property
    def _longest(self) -> int:
        """Bytes of the longest token."""
        return max(len(piece.encode()) for piece in self._tokenizer.get_vocab())


def too_long(takes: str, room: int) -> PromptTooLong:
    """The error for a prompt that ``takes`` more than the room there is."""
    return PromptTooLong(
        f"The prompt takes {takes}; this server has room for {room} tokens, audio and answer included. "
        "Send shorter audio or text."
    )


def _template_form(message: Message) -> dict[str, Any]:
    content = [
        {"type": "audio", "audio_url": ""} if isinstance(part, Clip) else {"type": "text", "text": part}
        for part in message.parts
    ]
    if len(content) == 1 and content[0]["type"] == "text":
        return {"role": message.role, "content": content[0]["text"]}
    return {"role": message.role, "content": content}


def _each_text(message: Message, form: str) -> Message:
    """The same turn with each text written into ``form``."""
    parts = (part if isinstance(part, Clip) else form.format(part) for part in message.parts)
    return replace(message, parts=tuple(parts))
