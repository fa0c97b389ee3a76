"""Bytes of a text file as text: UTF-8 or UTF-16, with or without their mark; nothing is guessed beyond these."""

import codecs

from app.errors import DatasetError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Encodings that spreadsheets write beside them: they share bytes, so a wrong guess would give wrong letters silently
_OTHERS = ("gb18030", "big5", "shift_jis", "cp1252")


def text_in(data: bytes, name: str) -> str:
    """The text. Bytes of a file in UTF-8 that are none become surrogates, so that their row can be named.

    Raises DatasetError for UTF-16 that is cut off or broken.
    """
    for mark, marked in _MARKS:
        if data.startswith(mark) and marked != "utf-8":
            return _strict(data[len(mark) :], marked, name)
    data = data.removeprefix(codecs.BOM_UTF8)
    if unmarked := _unmarked_utf16(data):
        return _strict(data, unmarked, name)
    return data.decode("utf-8", "surrogateescape")


def likely_encoding(text: str) -> str | None:
    """The encoding that a text with surrogates may have had, for an error message; None where nothing is likely."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None
    for encoding in _OTHERS:
        try:
            data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return None


def _strict(data: bytes, encoding: str, name: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{name!r} is broken {encoding.upper()} text ({error.reason}); save it as UTF-8.") from None


def _unmarked_utf16(data: bytes) -> str | None:
    """By the zeros that every second byte of its separators and line ends is."""
    some = data[:4096]
    if len(some) < 4 or len(data) % 2 or b"\0" not in some:
        return None
    even, odd = some[::2].count(0), some[1::2].count(0)
    if odd > len(some) // 8 and not even:
        return "utf-16-le"
    return "utf-16-be" if even > len(some) // 8 and not odd else None
