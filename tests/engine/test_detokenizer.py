from hypothesis import given
from hypothesis import strategies as st

from app.engine.detokenizer import Detokenizer


def decode(ids):
    return bytes(ids).decode("utf-8", errors="replace")


def stream_of(text: str, *stop: str) -> tuple[list[str], Detokenizer]:
    stream = Detokenizer(decode, stop)
    pieces = []
    for byte in text.encode():
        pieces.append(stream.push(byte))
        if stream.stopped:
            return pieces, stream
    return [*pieces, stream.finish()], stream


@given(st.text(max_size=40))
def test_pieces_join_to_the_text(text):
    pieces, stream = stream_of(text)
    assert "".join(pieces) == stream.text == text


@given(st.text(alphabet="abé", max_size=20), st.text(alphabet="abé", min_size=1, max_size=3))
def test_a_stop_string_cuts_where_it_begins_and_is_never_seen(text, stop):
    pieces, stream = stream_of(text, stop)
    assert "".join(pieces) == text.partition(stop)[0]
    assert stream.stopped == (stop in text)


def test_half_a_character_is_held_back():
    stream = Detokenizer(decode)
    assert [stream.push(byte) for byte in "é".encode()] == ["", "é"]


def test_broken_bytes_at_the_end_are_shown_not_lost():
    stream = Detokenizer(decode)
    stream.push(0xC3)
    assert stream.finish() == "\ufffd"


def test_text_that_only_looked_like_a_stop_string_comes_out():
    pieces, _ = stream_of("ab!", "abc")
    assert pieces == ["", "", "ab!", ""]
