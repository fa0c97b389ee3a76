"""Rendered prompts are the processor's own, token by token; no text becomes a control token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest, PromptTooLong
from app.models.loading import LoadedModel
from app.models.prompt import Message, PromptRenderer
from tests.support import clips_of, tone

CONTROL = ("<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|endoftext|>", "<|audio_bos|>")
# white space and bits of control tokens, where joined texts are taken apart otherwise than the parts alone
TEXTS = st.text("ab 1\n\t.,'<|im_endAUDIO>\u00e9\u0301\u00df\u6f22", max_size=12)
TURNS = st.lists(st.lists(st.one_of(TEXTS, st.none()), max_size=4), min_size=1, max_size=4)


def theirs(loaded: LoadedModel, messages: list[Message], waves: list[object]) -> list[int]:
    """What the processor makes of the same conversation."""
    conversation = []
    for message in messages:
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "audio", "audio_url": ""}
            for part in message.parts
        ]
        alone = len(content) == 1 and content[0]["type"] == "text"
        conversation.append({"role": message.role, "content": content[0]["text"] if alone else content})
    text = loaded.processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    sound = {"audio": waves, "sampling_rate": 16_000} if waves else {}
    return [int(one) for one in loaded.processor(text=text, **sound)["input_ids"][0]]


@settings(max_examples=60, deadline=None)
@given(turns=TURNS)
def test_any_conversation_renders_as_the_processor_renders_it(
    loaded: LoadedModel, turns: list[list[str | None]]
) -> None:
    waves, messages = [], []
    (clip,) = clips_of(loaded, tone(300, 0.4))
    for place, turn in enumerate(turns):
        role = "user" if place % 2 == 0 else "assistant"
        parts = tuple(clip if part is None and role == "user" else part or "" for part in turn)
        waves += [tone(300, 0.4)] * sum(part is clip for part in parts)
        messages.append(Message(role, parts))
    if any(token in "".join(p for p in m.parts if isinstance(p, str)) for m in messages for token in CONTROL):
        return
    assert PromptRenderer(loaded.processor).render(messages) == theirs(loaded, messages, waves)


@pytest.mark.parametrize("token", CONTROL)
@pytest.mark.parametrize("cut", range(1, 8))
def test_a_control_token_in_pieces_is_words(loaded: LoadedModel, token: str, cut: int) -> None:
    renderer, tokenizer = PromptRenderer(loaded.processor), loaded.processor.tokenizer
    reserved = set(tokenizer.convert_tokens_to_ids(list(CONTROL)))
    template = [one for one in renderer.render([Message("user", ("x",))]) if one in reserved]
    for parts in ((token[:cut], token[cut:]), ("hi" + token[:cut], "", token[cut:] + "\n"), tuple(token)):
        ids = renderer.render([Message("user", parts)], room=2048)
        assert [one for one in ids if one in reserved] == template
        assert "".join(parts) in tokenizer.decode(ids)


@pytest.mark.parametrize("token", CONTROL)
def test_a_control_token_in_one_text_is_refused(loaded: LoadedModel, token: str) -> None:
    for parts in ((token,), ("a", f"b{token}c"), (token[:3], token)):
        with pytest.raises(BadRequest, match="steers the model"):
            PromptRenderer(loaded.processor).render([Message("user", parts)])


@pytest.mark.parametrize(
    "text", ["<|im_end", "im_end|>", "<|", "|>", "<|AUD IO|>", "<|im_end|", "user\n", "\n\n", " ", ""]
)
def test_bits_of_control_tokens_are_words(loaded: LoadedModel, text: str) -> None:
    renderer = PromptRenderer(loaded.processor)
    reserved = set(loaded.processor.tokenizer.convert_tokens_to_ids(list(CONTROL)))
    ids = renderer.render([Message("user", (text,))])
    assert ids == theirs(loaded, [Message("user", (text,))], [])
    assert sum(one in reserved for one in ids) == sum(
        one in reserved for one in renderer.render([Message("user", ("x",))])
    )


def test_a_clip_that_is_named_often_is_too_long_before_it_is_written_out(loaded: LoadedModel) -> None:
    (clip,) = clips_of(loaded, tone(300, 2.0))
    with pytest.raises(PromptTooLong, match=rf"{400 * clip.tokens} tokens of audio.*room for 8192"):
        PromptRenderer(loaded.processor).render([Message("user", (clip,) * 400)], room=8192)


@pytest.mark.parametrize("text", ["a" * 200_000, "ab 1" * 50_000, "\n" * 200_000, "漢" * 100_000])
def test_long_texts_are_refused_while_they_are_tokenised(
    loaded: LoadedModel, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = PromptRenderer(loaded.processor)
    seen, ids = [0], renderer._ids

    def watched(piece: str) -> list[int]:
        seen[0] += len(piece)
        return ids(piece)

    monkeypatch.setattr(renderer, "_ids", watched)
    messages = [Message("user", (text,)), Message("assistant", (text,))] * 5 + [Message("user", ("x",))]
    with pytest.raises(PromptTooLong, match="room for 2048"):
        renderer.render(messages, room=2048)
    assert seen[0] < 2 * len(text)


@settings(max_examples=40, deadline=None)
@given(text=st.text("ab 1\n.", min_size=1, max_size=300).map(lambda piece: piece * 300), spare=st.integers(-3, 3))
def test_what_fits_is_never_refused(loaded: LoadedModel, text: str, spare: int) -> None:
    renderer = PromptRenderer(loaded.processor)
    whole = renderer.render([Message("user", (text,))])
    room = len(whole) + 1 + max(0, spare)
    assert renderer.render([Message("user", (text,))], room=room) == whole
