"""`language` of a transcription: codes and names, and the prompt for it."""

from functools import cache

from app.api.problems import InvalidFields
from app.service.generation import DEFAULT_PROMPT

DETECT = frozenset({"auto", "detect", "auto-detect", "und", "multi"})
# of three letters, for the languages that are asked for most
_LONG = {
    "eng": "en", "deu": "de", "ger": "de", "fra": "fr", "fre": "fr", "spa": "es", "zho": "zh", "chi": "zh", "cmn": "zh",
    "jpn": "ja", "kor": "ko", "rus": "ru", "por": "pt", "ita": "it", "nld": "nl", "dut": "nl", "pol": "pl", "tur": "tr",
    "ara": "ar", "hin": "hi", "ukr": "uk", "ces": "cs", "cze": "cs", "swe": "sv", "dan": "da", "nor": "no", "fin": "fi",
    "ell": "el", "gre": "el", "heb": "he", "hun": "hu", "ron": "ro", "rum": "ro", "vie": "vi", "tha": "th", "ind": "id",
}  # fmt: skip


def language_of(value: str) -> str | None:
    """The English name of a language, in lower case: of `de`, `de-AT`, `deu` or `German`; None for `auto`.

    Raises InvalidFields for what is no language.
    """
    said = value.strip().lower().replace("_", "-")
    if said in DETECT:
        return None
    names, codes = _languages()
    short = said.partition("-")[0]
    code = codes.get(said) or next((one for one in (said, short, _LONG.get(short, "")) if one in names), None)
    if code is None:
        raise InvalidFields(
            f"language: {value[:40]!r} is no language that is known here; send a code of two letters such as 'de', or "
            "an English name such as 'german'.",
            ["language"],
        )
    return names[code]


def prompt_in(language: str | None, default: str = DEFAULT_PROMPT) -> str:
    """The default prompt for speech of a language; English, which it is written in, needs no other words."""
    if language in (None, "english"):
        return default
    return f"{default} The speech is in {str(language).title()}."


@cache
def _languages() -> tuple[dict[str, str], dict[str, str]]:
    """Whisper's languages: code to name, name to code."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    return dict(LANGUAGES) | {"nb": "norwegian", "iw": "hebrew", "fil": "tagalog"}, dict(TO_LANGUAGE_CODE)
