"""`/v1/audio/translations`: the prompt asks for English, all else is as for transcriptions."""

from typing import Any

import httpx
import openai as sdk
import pytest
from openai import OpenAI

from app.api.openai.languages import prompt_in
from app.api.schemas.openai.transcription_request import TranslationForm
from tests.api.openai.conftest import BASE, COMMAND

pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's word for its method
ASKS = "Translate the speech into English."


def transcribed(openai: OpenAI, prompt: str, model: str = BASE) -> str:
    with COMMAND.open("rb") as file:
        return openai.audio.transcriptions.create(model=model, file=file, prompt=prompt).text


def translated(openai: OpenAI, model: str = BASE, **fields: Any) -> Any:
    with COMMAND.open("rb") as file:
        return openai.audio.translations.create(model=model, file=file, **fields)


def test_the_model_is_asked_to_translate(openai: OpenAI) -> None:
    assert translated(openai).text == transcribed(openai, ASKS)
    assert translated(openai, prompt="Say hello.").text == transcribed(openai, "Say hello.")
    assert translated(openai, prompt="Transcribe the audio.").text == transcribed(openai, "Transcribe the audio.")
    german = translated(openai, extra_body={"language": "de"})
    assert german.text == transcribed(openai, f"{ASKS} The speech is in German.")
    assert prompt_in("german", TranslationForm.asks_for) == f"{ASKS} The speech is in German."


def test_an_adapters_own_prompt_is_used_and_named(openai: OpenAI, plain: httpx.Client) -> None:
    own = plain.get("/adapters/command-json").json()["manifest"]["prompt"]
    answer = translated(openai, "command-json")
    assert answer.text == transcribed(openai, own, "command-json")
    assert any("the adapter's own was used" in warning for warning in answer.overtone["warnings"])


def test_formats(openai: OpenAI) -> None:
    text = translated(openai).text
    assert translated(openai, response_format="text") == f"{text}\n"
    assert text in translated(openai, response_format="srt")
    assert translated(openai, response_format="vtt").startswith("WEBVTT")
    verbose = translated(openai, response_format="verbose_json", temperature=0)
    assert (verbose.language, verbose.text) == ("english", text)
    assert (verbose.task, len(verbose.segments)) == ("translate", 1)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"task": "transcribe"}, "'task' is not supported"),
        ({"to_language": "de"}, "'to_language' is not supported"),
        ({"langage": "de"}, "did you mean 'language'"),
        ({"temperature": 9}, "temperature"),
    ],
)
def test_what_is_not_here_is_refused(openai: OpenAI, fields: dict[str, Any], word: str) -> None:
    with pytest.raises(sdk.BadRequestError) as error:
        translated(openai, extra_body=fields)
    assert word in error.value.message


def test_every_parameter_of_the_official_client_is_known() -> None:
    from openai.types.audio import translation_create_params as translation

    known = {*TranslationForm.known(), *TranslationForm.unsupported}
    assert set(translation.TranslationCreateParams.__annotations__) <= known
