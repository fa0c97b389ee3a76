"""From a conversation to token ids, by the model's own chat template. Server and trainer share it."""

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

from app.errors import BadRequest, PromptTooLong
from app.models.family import family_of_processor
from app.models.structured.tools import Tool, ToolCall, knows_tools

Role = Literal["system", "user", "assistant"]


class AudioPart(Protocol):
    """Audio in a turn, of which the prompt needs the length alone; a `Clip` is one."""

    @property
    def tokens(self) -> int:
        """Audio tokens that it takes."""

    @property
    def joined(self) -> bool:
        """True if it shares the span of audio tokens with the part before it."""


@dataclass(frozen=True)
class Message:
    """One turn: text and clips in the order in which they are said.

    ``calls``: of tools, in a turn of the assistant's. ``result_of``: the tool, in a turn of the role `tool`.
    """

    role: Role | Literal["tool"]
    parts: tuple[str | AudioPart, ...]
    calls: tuple[ToolCall, ...] = ()
    result_of: str = ""


BLOCK = 1 << 16  # characters that are tokenised at a time to learn whether a long text may fit
CUT = 256  # tokens by which cutting a text into blocks may change their number, for each cut
APART = f"\ufdd0{secrets.token_hex(16)}\ufdd0"  # between texts; of no text, since nobody knows it
_BLANK_CALL, _BLANK_TOOL = (ToolCall("x", "{}"),), (Tool("x", "x", {}),)
SHRINKS = 4  # a tokenizer that composes characters (NFC) makes at most so many bytes one


class PromptRenderer:
    """Renders with the chat template; each clip stands as its number of audio tokens."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._format = family_of_processor(processor).prompt
        self._audio_token: str = processor.audio_token
        self._reserved = sorted({*self._tokenizer.all_special_tokens, self._audio_token}, key=len, reverse=True)
        self._tokens = re.compile("|".join(map(re.escape, self._reserved)))
        self.knows_tools = knows_tools(str(processor.chat_template))
        self.eos_ids = frozenset(self._tokenizer.convert_tokens_to_ids(list(self._format.ends)))

    def render(
        self,
        messages: Sequence[Message],
        *,
        answer: str | None = None,
        room: int | None = None,
        tools: Sequence[Tool] = (),
    ) -> list[int]:
        """Token ids of the prompt, up to where the assistant's answer begins.

        With ``answer`` (training), the answer and its end token follow. With ``room``, a prompt of at least so many
        tokens raises PromptTooLong, before time and memory go into it. ``tools`` are part of the prompt where the
        template knows tools; elsewhere they are left out, and calls and results become text.
        Raises BadRequest when a text holds one of the model's control tokens.
        """
        if not self.knows_tools:
            messages, tools = [_without_tools(message) for message in messages], ()
        if room is not None:
            self._refuse_long(messages, room)
        for part in _texts(messages, tools):
            self._refuse_reserved(part)
        text = self._templated(messages, tools)
        blank = [replace(_each_text(message, "x"), calls=_BLANK_CALL * len(message.calls)) for message in messages]
        plain = self._templated(blank, _BLANK_TOOL * len(tools))
        if self._holds_more(text, plain):
            # put together from several texts: taken apart where they meet, it is words
            text = self._templated([_each_text(message, f"{APART}{{}}{APART}") for message in messages], tools)
            if self._holds_more(text, plain):
                raise BadRequest("Tools and their calls put together a token that steers the model itself.")
        spans = _audio_spans(messages)
        if text.count(self._audio_token) != len(spans):
            raise BadRequest(
                f"This model's prompts have room for {text.count(self._audio_token)} of the {len(spans)} recordings: "
                "send one recording per turn."
            )
        left = iter(spans)
        ids: list[int] = []
        for piece in self._pieces(text):
            if piece == self._audio_token:
                ids += self._ids(piece) * next(left)
            else:
                self._refuse_long_text(piece, room, len(ids))
                ids += self._ids(piece)
        if answer is not None:
            self._refuse_reserved(answer)
            ids += self._ids(f"{answer}{self._format.end}")  # apart, as in serving: no token spans the prompt's end
        return ids

    def answer_spans(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """The answers in rendered ids: [start, end) of each, its end token included."""
        header, end = self._ids(self._format.header), self._ids(self._format.end)[0]
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
        """The bytes that one token stands for, which may be half a character."""
        return self._format.token_bytes(self._tokenizer, token)

    def _templated(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        """The conversation as the model's template writes it, one audio token for each clip."""
        conversation = [
            (
                message.role,
                [
                    part if isinstance(part, str) else None
                    for part in message.parts
                    if isinstance(part, str) or not part.joined
                ],
            )
            for message in messages
        ]
        if not tools and not any(message.calls for message in messages):
            return self._format.render(self._processor, conversation)
        calls = {place: [call.for_template() for call in one.calls] for place, one in enumerate(messages) if one.calls}
        return self._format.render(self._processor, conversation, [tool.for_template() for tool in tools], calls)

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
        """True if there are more control tokens than the template itself writes."""
        return any(text.count(token) > template.count(token) for token in self._reserved)

    def _refuse_long(self, messages: Sequence[Message], room: int) -> None:
        """Raises PromptTooLong for what can be seen without rendering: clips, and more bytes than tokens can hold."""
        parts = [part for message in messages for part in message.parts]
        clips = [part.tokens for part in parts if not isinstance(part, str)]
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


def _audio_spans(messages: Sequence[Message]) -> list[int]:
    """Tokens of each span of audio: of a clip, with those joined to it."""
    spans: list[int] = []
    for part in (part for message in messages for part in message.parts if not isinstance(part, str)):
        if part.joined:
            spans[-1] += part.tokens
        else:
            spans.append(part.tokens)
    return spans


def _without_tools(message: Message) -> Message:
    """The same turn for a template that knows no tools: calls and results as text."""
    if message.role == "tool":
        return Message("user", (f"Result of {message.result_of}: ", *message.parts))
    calls = "\n".join(call.as_text() for call in message.calls)
    return Message(message.role, (*message.parts, calls)) if calls else message


def _texts(messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[str]:
    """All that the client wrote."""
    for message in messages:
        yield from (part for part in message.parts if isinstance(part, str))
        for call in message.calls:
            yield f"{call.name} {call.arguments}"
    for tool in tools:
        yield f"{tool.name} {tool.description} {json.dumps(tool.parameters, ensure_ascii=False)}"


def _each_text(message: Message, form: str) -> Message:
    """The same turn with each text written into ``form``."""
    parts = (form.format(part) if isinstance(part, str) else part for part in message.parts)
    return replace(message, parts=tuple(parts))
