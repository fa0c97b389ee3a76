"""Texts of rows as the model may see them."""

import re

from training.data.encodings import likely_encoding
from training.data.records import BadRow, shown

CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>")  # all control tokens of Qwen2-Audio look like this
OTHER_MEDIA = re.compile(r"<(image|video|bbox|ref-object)>")  # placeholders of trainers for what is not heard


def text_of(value: object, field: str) -> str:
    """The value if it is text that can be learned. Raises BadRow."""
    if not isinstance(value, str):
        raise BadRow(f"{field} must be text, not {shown(value)}")
    if token := CONTROL.search(value):
        raise BadRow(f"{field} holds {token[0]}, which steers the model itself")
    if token := OTHER_MEDIA.search(value):
        raise BadRow(f"{field} holds {token[0]}; only recordings can be trained on")
    if any("\ud800" <= character <= "\udfff" for character in value):
        likely = likely_encoding(value)
        raise BadRow(f"{field} holds broken characters{f' (it may be {likely})' if likely else ''}; save it as UTF-8")
    return value
