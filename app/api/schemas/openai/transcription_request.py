"""The forms of `/v1/audio/transcriptions` and `/v1/audio/translations`: parameters, ranges, and their combinations."""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from fastapi import UploadFile
from pydantic import Field, field_validator, model_validator

from app.api.openai.languages import language_of, prompt_in
from app.api.problems import InvalidFields
from app.api.schemas.fields import example
from app.api.schemas.openai.chat_request import Inform, ModelName, Seed, Temperature
from app.api.schemas.openai.fields import Neutral, OpenAIFields
from app.api.schemas.requests import Text
from app.api.schemas.sampling import seed_or_random
from app.engine.request import LoRAWeight
from app.engine.sampling_params import SamplingParams
from app.models.features import Clip
from app.service import GenerationInput
from app.service.generation import DEFAULT_PROMPT, Conversation, default_prompt

MOST_TOKENS = 448  # of one window, as Whisper's decoder allows; fast speech takes about half


class TranscriptionForm(OpenAIFields):
    """OpenAI's parameters as far as they are supported."""

    model_config = example({"file": "clip.wav", "model": "base"})
    hints: ClassVar[dict[str, str]] = {"audio": "file", "granularities": "timestamp_granularities[]"}
    unsupported: ClassVar[Neutral] = {
        "include": (),
        "include[]": (),
        "chunking_strategy": ("auto",),  # what is done here
        "known_speaker_names": (),
        "known_speaker_names[]": (),
        "known_speaker_references": (),
        "known_speaker_references[]": (),
        "keywords": (),
        "keywords[]": (),
        "languages": (),
        "languages[]": (),
        "task": ("transcribe",),
        # vLLM's, with their defaults
        "to_language": (),
        "top_p": (1,),
        "top_k": (0, -1),
        "min_p": (0,),
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "repetition_penalty": (1,),
        "hotwords": (),
        "stream_include_usage": (True, False),
        "stream_continuous_usage_stats": (False,),
    }

    asks_for: ClassVar[str] = DEFAULT_PROMPT
    task: ClassVar[Literal["transcribe", "translate"]] = "transcribe"

    file: UploadFile = Field(description="wav, flac, ogg, opus, mp3, m4a, mp4 or webm, at any rate")
    model: ModelName
    prompt: Text | None = Field(None, description="the prompt; default: the adapter's own, or to transcribe")
    language: str | None = Field(
        None, max_length=100, description="of the speech: `de`, `de-AT`, `deu` or `german`; the default prompt names it"
    )
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Temperature = 0.0
    seed: Seed | None = None
    stream: bool = False
    granularities: list[Literal["segment"]] = Field([], alias="timestamp_granularities[]")
    user: Any = Inform
    metadata: Any = Inform

    @field_validator("granularities", mode="before")
    @classmethod
    def _one_by_one(cls, value: Any) -> Any:
        """Also as clients write a list into one field: `segment,word` or `["segment"]`."""
        if not isinstance(value, list):
            return value
        return [word for text in value for word in re.split(r"[\s,\[\]\"']+", str(text)) if word]

    @field_validator("language")
    @classmethod
    def _known_language(cls, value: str | None) -> str | None:
        return language_of(value) if value is not None else None

    @model_validator(mode="after")
    def _agrees(self) -> "TranscriptionForm":
        if self.stream and self.response_format != "json":
            raise InvalidFields("stream goes with the response_format json.", ["stream"])
        if self.granularities and self.response_format != "verbose_json":
            raise InvalidFields(
                "timestamp_granularities goes with the response_format verbose_json.", ["timestamp_granularities"]
            )
        return self

    def prompt_for(self, adapters: Sequence[LoRAWeight]) -> str:
        """The request's prompt, the adapter's own, or the default one for the language."""
        prompt = self.prompt or default_prompt(adapters)
        return prompt_in(self.language, self.asks_for) if prompt == DEFAULT_PROMPT else prompt

    def notices(self, adapters: Sequence[LoRAWeight]) -> list[str]:
        """One sentence per parameter that was not used."""
        if self.language is None or prompt_in(self.language, self.asks_for) == self.prompt_for(adapters):
            return []
        return ["language: not used, since the prompt is not the default one; name the language in the prompt"]

    def generation_input(
        self, clip: Clip, seconds: float, decoding_seconds: float, adapters: tuple[LoRAWeight, ...]
    ) -> GenerationInput:
        """The input that transcribes one window; ``seconds``: its length."""
        verbose = self.response_format == "verbose_json"
        return GenerationInput(
            Conversation.single_turn([[clip]], self.prompt_for(adapters)),
            adapters,
            SamplingParams(
                MOST_TOKENS, self.temperature, seed=seed_or_random(self.seed), logprobs=0 if verbose else None
            ),
            fit=True,
            audio_seconds=seconds,
            decoding_seconds=decoding_seconds,
        )


class TranslationForm(TranscriptionForm):
    """The same, for the text in English."""

    unsupported: ClassVar[Neutral] = {
        **TranscriptionForm.unsupported,
        "task": ("translate",),
        "to_language": ("en", "english"),
    }
    asks_for: ClassVar[str] = "Translate the speech into English."
    task: ClassVar[Literal["transcribe", "translate"]] = "translate"

    prompt: Text | None = Field(None, description="the prompt; default: the adapter's own, or to translate")

    def prompt_for(self, adapters: Sequence[LoRAWeight]) -> str:
        """The request's prompt, the adapter's own unless it transcribes, or the default one for the language."""
        return self.prompt if self.prompt == DEFAULT_PROMPT else super().prompt_for(adapters)

    def notices(self, adapters: Sequence[LoRAWeight]) -> list[str]:
        """One sentence per parameter that was not used; and what an adapter was asked instead."""
        own = default_prompt(adapters)
        if self.prompt is not None or own == DEFAULT_PROMPT:
            return super().notices(adapters)
        return [*super().notices(adapters), f"prompt: the adapter's own was used ({own[:80]!r}); send one to translate"]
