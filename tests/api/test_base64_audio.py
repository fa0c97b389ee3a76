"""Base64 as people write it is the recording; anything that would be other bytes is refused by its reason."""

import base64
import textwrap
from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.bodies.base64_audio import NotBase64, decode

RAW = bytes(range(256)) * 3 + b"\xfb\xef\xbe\xff"  # has + and / in base64
PLAIN = base64.b64encode(RAW).decode()
WAYS = {
    "plain": PLAIN,
    "MIME": base64.encodebytes(RAW).decode(),
    "the base64 command": "\n".join(textwrap.wrap(PLAIN, 76)) + "\n",
    "CRLF": "\r\n".join(textwrap.wrap(PLAIN, 64)),
    "odd lines": "\n".join(textwrap.wrap(PLAIN, 61)),
    "indented": "\n  ".join(textwrap.wrap(PLAIN, 60)),
    "lines joined by a shell": " ".join(textwrap.wrap(PLAIN, 76)),
    "around": f"  \n{PLAIN}\t ",
    "URL-safe": base64.urlsafe_b64encode(RAW).decode(),
    "no padding": PLAIN.rstrip("="),
    "URL-safe without padding": base64.urlsafe_b64encode(RAW).decode().rstrip("="),
    "data URI": f"data:audio/flac;base64,{PLAIN}",
    "data URI without a type": f"data:;base64,{PLAIN}",
    "data URI with parameters": f"data:audio/webm;codecs=opus;base64,{PLAIN}",
    "capitals": f"DATA:audio/WAV;BASE64,{PLAIN}",
    "data URI in lines": f"data:audio/wav;base64,\n{base64.encodebytes(RAW).decode()}",
    "percent": f"data:audio/wav;base64,{quote(PLAIN, safe='')}",
}
WRONG = {
    "": "is empty",
    " \n": "is empty",
    "====": "is empty",
    "data:audio/wav;base64,": "is empty",
    "!!!": "'!' at character 1",
    PLAIN[:40] + "*" + PLAIN[40:]: "'\\*' at character 41",
    PLAIN[:40] + "=" + PLAIN[40:]: "'=' at character 41",
    PLAIN.rstrip("=")[: 4 * 30 + 1]: "cut off: 121 characters",
    f"data:audio/wav,{PLAIN}": "without ;base64",
    PLAIN.replace("+", " "): "spaces; was each '\\+'",
    "file:///etc/passwd": "':' at character 5",
    "UklGR\\n": "'\\\\\\\\' at character 6",
}


@pytest.mark.parametrize("way", WAYS)
def test_as_people_write_it(way: str) -> None:
    assert decode(WAYS[way]) == RAW


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:20] or "nothing")
def test_what_it_is_not(text: str) -> None:
    with pytest.raises(NotBase64, match=WRONG[text]):
        decode(text)


@given(
    st.binary(min_size=1, max_size=400), st.integers(4, 90), st.sampled_from(["\n", "\r\n", "\n\t"]), st.booleans(),
    st.booleans(), st.sampled_from(["", "data:;base64,", "data:audio/ogg;base64,"]),
)  # fmt: skip
def test_any_bytes_in_any_of_these_ways(
    raw: bytes, width: int, separator: str, safe: bool, padded: bool, prefix: str
) -> None:
    text = (base64.urlsafe_b64encode if safe else base64.b64encode)(raw).decode()
    text = text if padded else text.rstrip("=")
    assert decode(prefix + separator.join(textwrap.wrap(text, width))) == raw


@given(st.text(max_size=60))
def test_whatever_it_is_it_is_read_or_refused_in_words(text: str) -> None:
    with suppress(NotBase64):
        assert decode(text)


@given(st.binary(min_size=30, max_size=300))
def test_a_plus_that_became_a_space_is_never_other_bytes(raw: bytes) -> None:
    text = base64.b64encode(raw).decode()
    if "+" not in text.rstrip("="):
        return
    with suppress(NotBase64):
        assert decode(text.replace("+", " ")) == raw


def test_long_recordings() -> None:
    raw = RAW * 8000
    assert decode(base64.encodebytes(raw).decode()) == raw
