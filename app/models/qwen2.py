"""Qwen2 as a family's language model, and ChatML in byte-level tokens, the form of its prompts."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from app.models.family import Conversation, LanguageModel

QWEN2 = LanguageModel(
    module="transformers.models.qwen2.modeling_qwen2",
    compiled=(("Qwen2RMSNorm", "forward"), ("Qwen2MLP", "forward"), ("", "apply_rotary_pos_emb")),
    no_mask={"full_attention": None},
    fused=True,
)

# byte-level BPE writes each byte as a printable character (GPT-2): those that are printable as themselves,
# the others, in order, from 256 on
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + place): byte for place, byte in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))
}


class ChatML:
    """`<|im_start|>role`, a line break, the turn, `<|im_end|>`; written by the processor's own template."""

    required: tuple[str, ...] = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    header = "<|im_start|>assistant\n"
    end = "<|im_end|>"
    ends: tuple[str, ...] = ("<|im_end|>", "<|endoftext|>")

    def render(
        self,
        processor: Any,
        conversation: Conversation,
        tools: Sequence[Mapping[str, Any]] = (),
        calls: Mapping[int, Sequence[Mapping[str, Any]]] = MappingProxyType({}),
    ) -> str:
        """As `PromptFormat.render`."""
        turns: list[dict[str, Any]] = [{"role": role, "content": _content(parts)} for role, parts in conversation]
        for place, made in calls.items():
            turns[place]["tool_calls"] = list(made)
        text: str = processor.apply_chat_template(
            turns, tools=list(tools) or None, add_generation_prompt=True, tokenize=False
        )
        return text

    def token_bytes(self, tokenizer: Any, token: int) -> bytes:
        """As `PromptFormat.token_bytes`, for byte-level BPE."""
        piece: str = tokenizer.convert_ids_to_tokens(token) or ""
        if token in tokenizer.added_tokens_decoder:
            return piece.encode()
        return bytes(_BYTES[character] for character in piece)


def _content(parts: Any) -> Any:
    """A turn's content as the template takes it: the text alone, or a list of parts."""
    if len(parts) == 1 and parts[0] is not None:
        return parts[0]
    return [{"type": "audio", "audio_url": ""} if part is None else {"type": "text", "text": part} for part in parts]
