"""Names of fields: what each means to the trainers that write them, and what no training here can express."""

import re
from collections.abc import Iterable, Mapping, Sequence

from training.data.records import BadRow, shown

# Names of one field. Two of them filled with different values are refused.
AUDIO = (
    "audio", "audios", "audio_path", "audio_filepath", "audio_file", "file_name", "filename", "path", "file",
    "file_path", "filepath", "wav", "wav_path", "wav_filename",
)  # fmt: skip
PROMPT = ("prompt", "instruction", "query", "question")
RESPONSE = (
    "response", "text", "transcript", "transcription", "sentence", "output", "answer", "completion", "caption",
)  # fmt: skip
SYSTEM = ("system", "system_prompt")
MESSAGES = ("messages", "conversations", "conversation")
INPUT, HISTORY = "input", "history"  # Alpaca's second half of the prompt; earlier turns, as pairs
SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "eval": "validation", "evaluation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip

_MEDIA = "only recordings can be trained on"
_PREFERENCES = "this is data of preferences (DPO, KTO, reward models), and training here learns plain answers"
_TOKENS = "tokens and masks of another trainer cannot be taken over; give texts"
_TOOLS = "calls of tools cannot be trained on"
_LOSS = "answers are learned alike, one row as the other; `loss` and `weight` go into single turns"
# Fields whose meaning no run here has: a row that fills one is refused.
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("image", "images", "video", "videos", "objects"), _MEDIA),
    **dict.fromkeys(("tools", "functions", "tool_calls"), _TOOLS),
    **dict.fromkeys(
        (
            "chosen", "rejected", "rejected_response", "rejected_messages", "rejected_images", "preferred_output",
            "non_preferred_output", "margin", "completions",
        ),
        _PREFERENCES,
    ),
    **dict.fromkeys(
        ("input_ids", "labels", "attention_mask", "loss_mask", "completion_mask", "assistant_masks", "token_type_ids"),
        _TOKENS,
    ),
    "segments": "write one row for each segment, with start and end",
}  # fmt: skip
# Switches of other trainers that change what is learned: only their usual value is taken.
USUAL: Mapping[str, tuple[object, str]] = {
    **dict.fromkeys(("train_on_prompt", "train_on_inputs"), (False, "prompts are not learned here")),
    "mask_history": (False, "mark the turns that are not to be learned with `loss: false`"),
    **dict.fromkeys(("weight", "sample_weight", "loss_weight", "loss", "loss_scale"), (True, _LOSS)),
    "kto_tag": (True, "an answer that is marked as unwanted is not learned; remove the row"),
}
# Fields that say nothing about what is to be learned. The report names those that it met, once.
IDLE = frozenset(
    (
        "id", "idx", "index", "uid", "uuid", "key", "utt", "utt_id", "utterance_id", "audio_id", "clip_id",
        "sample_id", "segment_id", "row_id", "sentence_id", "speaker", "speaker_id", "spk", "spk_id", "client_id",
        "chapter_id", "reader_id", "session", "session_id", "user_id", "age", "gender", "sex", "accent", "accents",
        "dialect", "locale", "lang", "language", "language_id", "variant", "segment", "sentence_domain", "up_votes",
        "down_votes", "votes", "num_samples", "n_samples", "num_frames", "num_channels", "channels", "sampling_rate",
        "sample_rate", "samplerate", "bit_depth", "wav_filesize", "filesize", "file_size", "size", "bytes", "format",
        "codec", "md5", "sha1", "sha256", "hash", "checksum", "source", "origin", "dataset", "dataset_name", "corpus",
        "license", "licence", "url", "created", "created_at", "date", "timestamp", "version", "channel",
        "parallel_tool_calls", "metadata", "meta", "device", "microphone", "snr", "duration", "dur", "length",
        "unnamed_0", "index_level_0",
    )
)  # fmt: skip
# Of a turn: whether its words are learned (ms-swift, OpenAI, axolotl). Names that say nothing, and that cannot be kept.
LEARNED = ("loss", "weight", "loss_scale", "train", "training")
TURN_REFUSED = {
    **dict.fromkeys(("tool_calls", "function_call", "tool_call_id", "functions"), _TOOLS),
    **dict.fromkeys(("images", "videos", "image", "video"), _MEDIA),
    **dict.fromkeys(("reasoning_content", "thinking", "refusal"), "write what is to be learned into the content"),
    **dict.fromkeys(("mask", "loss_mask"), _TOKENS),
}

_NUMBERED = re.compile(r"\d+|left|right|l|r", re.IGNORECASE)  # a channel of sound; ms-swift's are names of topics


def normal(name: str) -> str:
    """A field's name without what spreadsheets do to it: capitals, blanks, units in brackets."""
    return re.sub(r"[^\w]+", "_", name.strip().casefold()).strip("_")


def normalised(record: Mapping[object, object]) -> dict[str, object]:
    """The record under normal names. Raises BadRow where two fields have one name and both are filled."""
    fields: dict[str, object] = {}
    for name, value in record.items():
        plain = normal(str(name))
        if filled(fields.get(plain)) and filled(value) and fields[plain] != value:
            raise BadRow(f"names the field {shown(plain)} twice, with different values")
        if not filled(fields.get(plain)):
            fields[plain] = value
    return fields


def filled(value: object) -> bool:
    """Absent, null, empty and blank are one thing."""
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and not (isinstance(value, Sequence | Mapping) and not value)


def one_of(fields: Mapping[str, object], names: Iterable[str], what: str) -> tuple[str, object]:
    """Name and value of the only field that is filled; without any, the first that is at least empty text.

    Raises BadRow where two are filled with different values: nothing says which is meant.
    """
    full = [(name, fields[name]) for name in names if filled(fields.get(name))]
    if full and any(value != full[0][1] for _, value in full[1:]):
        listed = " and ".join(name for name, _ in full[:3])
        raise BadRow(f"{listed} are both filled, and nothing says which is the {what}; keep one")
    empty = ((name, fields[name]) for name in names if isinstance(fields.get(name), str))
    return full[0] if full else next(empty, ("", None))


def refuse_other_trainings(fields: Mapping[str, object]) -> None:
    """Raises BadRow for a field whose meaning would be lost."""
    for name, value in fields.items():
        if name in REFUSED and filled(value):
            raise BadRow(f"{name} is filled: {REFUSED[name]}")
        if name in USUAL and filled(value):
            usual, why = USUAL[name]
            if as_flag(value) is not usual:
                raise BadRow(f"{name} is {shown(value)}: {why}")
        if name in ("channel", "channel_selector") and _NUMBERED.fullmatch(str(value).strip()):
            raise BadRow(f"{name} is {shown(value)}: one channel of a recording cannot be chosen; cut it out first")


def as_flag(value: object) -> bool | None:
    """True for true, 1, 1.0, "true"; False for their opposites; None for anything else."""
    if isinstance(value, str):
        return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(
            value.strip().casefold()
        )
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    return None
