"""The processor of a base model: tokenizer, feature extractor and chat template, checked against its configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.errors import ModelRejected
from app.models.config import CONFIG, read_json
from app.models.family import ModelFamily, family_of
from app.models.weights.safetensors_header import AGAIN

_TOKENIZER = "tokenizer.json"
_EXTRACTOR, _PROCESSOR = "preprocessor_config.json", "processor_config.json"
_JSON = (_TOKENIZER, "tokenizer_config.json", _EXTRACTOR, _PROCESSOR, "chat_template.json", "generation_config.json")
_CONVERSATION = [("user", [None, "?"])]

_COPY = "Copy it from the model that this one was made of."
_ONE_MODEL = f"Processor and {CONFIG} must be of one model: download both again."


def load_processor(folder: Path, config: Any) -> Any:
    """The processor in ``folder``. ``config``: the model's.

    Raises ModelRejected where a file of it is missing or damaged, or belongs to another model.
    """
    from transformers import AutoProcessor

    _refuse_incomplete(folder)
    try:
        processor = AutoProcessor.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise errors of many kinds
        raise ModelRejected(f"tokenizer or feature extractor cannot be read: {_words(error)}") from None
    family = family_of(config)
    if not any(cls.__name__ == family.processor for cls in type(processor).__mro__):
        raise ModelRejected(f"{type(processor).__name__} is no processor of {family.title}. {AGAIN}")
    _check_tokenizer(processor, config, family.prompt.required)
    _check_extractor(processor.feature_extractor, family.extractor_fields(config))
    _check_template(processor, family)
    return processor


def _refuse_incomplete(folder: Path) -> None:
    contents = {name: read_json(folder / name) for name in _JSON if (folder / name).exists()}
    if _EXTRACTOR not in contents and "feature_extractor" not in contents.get(_PROCESSOR, {}):
        raise ModelRejected(f"there is no feature extractor ({_EXTRACTOR}). {_COPY}")
    if _TOKENIZER not in contents and not all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise ModelRejected(f"there is no {_TOKENIZER}. {_COPY}")
    templates = ("chat_template.jinja", "chat_template.json")
    inside = any(contents.get(name, {}).get("chat_template") for name in (_PROCESSOR, "tokenizer_config.json"))
    # the Hub's own folder has neither template nor processor_config.json; transformers then has one built in
    if _PROCESSOR in contents and not inside and not any((folder / name).is_file() for name in templates):
        raise ModelRejected(f"there is no {templates[0]}. {_COPY}")


def _check_tokenizer(processor: Any, config: Any, required: tuple[str, ...]) -> None:
    tokenizer, audio = processor.tokenizer, processor.audio_token
    vocabulary = tokenizer.get_vocab()
    rows = config.text_config.vocab_size
    highest = max(vocabulary.values(), default=-1)
    if highest >= rows:
        raise ModelRejected(
            f"the tokenizer has tokens up to {highest}, and {CONFIG} a vocab_size of {rows}. {_ONE_MODEL}"
        )
    if lost := [token for token in (*required, audio) if token not in vocabulary]:
        raise ModelRejected(f"the tokenizer does not know {', '.join(lost)}. {_ONE_MODEL}")
    if vocabulary[audio] != config.audio_token_id:
        raise ModelRejected(
            f"{audio} is token {vocabulary[audio]} of the tokenizer, and audio_token_index {config.audio_token_id} in "
            f"{CONFIG}. {_ONE_MODEL}"
        )


def _check_extractor(extractor: Any, expected: Mapping[str, int]) -> None:
    for field, value in expected.items():
        if (found := getattr(extractor, field, None)) != value:
            raise ModelRejected(
                f"{field} of the feature extractor is {found}, and {CONFIG} asks for {value}. {_ONE_MODEL}"
            )


def _check_template(processor: Any, family: ModelFamily) -> None:
    """Render a conversation: the recording must stand in it once."""
    try:
        text = family.prompt.render(processor, _CONVERSATION)
    except Exception as error:  # jinja's errors, and what its code raises
        raise ModelRejected(f"the chat template cannot be used: {_words(error)}") from None
    if text.count(processor.audio_token) != 1:
        raise ModelRejected(f"the chat template writes no {processor.audio_token} for a recording. {_ONE_MODEL}")
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    if ids.count(processor.tokenizer.convert_tokens_to_ids(processor.audio_token)) != 1:
        raise ModelRejected(f"the tokenizer does not read {processor.audio_token} as one token. {_ONE_MODEL}")


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
