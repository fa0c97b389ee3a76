"""The only reader of the environment: every `OVERTONE_*` variable, its default and its unit."""

import os
import stat
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import BadRequest

PREFIX, ENV_FILE = "OVERTONE_", ".env"
CLIENTS = ("KEY",)  # the server reads no OVERTONE_KEY: the page's examples for clients do
EMBEDDED_MODEL = Path(__file__).parent / "models" / "overtone-tiny"
Names = Annotated[tuple[str, ...], NoDecode]
Folders = Annotated[tuple[Path, ...], NoDecode]


class Settings(BaseSettings):
    """Read once, at start; handed down from there. Lists are comma-separated in the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=ENV_FILE, extra="ignore", frozen=True)

    model: str = Field(
        str(EMBEDDED_MODEL), description="Hub id or local folder of an audio language model; random:7b to try speed"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 …")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on CUDA, float32 on CPU"
    )
    cpu_threads: int = Field(0, ge=0, description="torch threads; 0: torch's own choice, 1 beside a GPU")

    adapters: Path = Field(Path("adapters"), description="the registry folder")
    shared_adapters: str | None = Field(
        None, description="store that replicas share, s3://bucket/prefix …; the registry folder caches it"
    )
    adapter_roots: Folders = Field((), description="folders that `source` may name in POST /adapters")
    adapter_sources: Names = Field((), description="allowed source prefixes: hf://org/, s3://bucket/ …")
    watch_seconds: float = Field(
        2.0, gt=0, description="how often the registry folder and the shared store are looked at"
    )
    keep_versions: int = Field(5, ge=1, description="older versions kept for rollback, per adapter")
    max_adapter_mb: int = Field(4096, ge=1, description="largest adapter, uploaded and unpacked")
    max_resident: int = Field(32, ge=1, description="adapters in GPU slots at a time")
    max_rank: int = Field(256, ge=1, description="largest LoRA rank accepted")
    host_cache_mb: int = Field(2048, ge=1, description="adapter weights kept in host memory")

    jobs: Path = Field(Path("jobs"), description="the folder of training jobs")
    max_jobs: int = Field(1, ge=1, description="training jobs running at a time; the others wait")
    max_waiting_jobs: int = Field(32, ge=1, description="training jobs of one tenant that wait; beyond it 429")
    keep_jobs: int = Field(500, ge=1, description="training jobs of one tenant on disk, those that are over included")
    tenant_jobs_gb: float = Field(100.0, gt=0, description="what the jobs of one tenant may take of the disk")
    job_hours: float = Field(72.0, gt=0, description="longest run of a training job; it may be resumed")
    dataset_roots: Folders = Field((), description="folders that `dataset` may name in POST /training/jobs")
    max_dataset_mb: int = Field(2048, ge=1, description="largest data set, uploaded and unpacked")

    feedback: Path | None = Field(
        None, description="the folder of feedback on answers; none: off. Recordings are kept with consent alone"
    )
    feedback_days: float = Field(90.0, gt=0, description="days after which a row of feedback is deleted")
    feedback_mb: int = Field(2048, ge=1, description="what the feedback of one tenant may take of the disk")
    feedback_recent_mb: int = Field(
        64, ge=1, description="memory for the latest requests, which feedback names by id; with FEEDBACK alone"
    )

    decoder: Literal["auto", "fused", "modules"] = Field(
        "auto", description="fused: Triton kernels and CUDA graphs; modules: plain torch; auto: fused on CUDA"
    )
    weights: Literal["auto", "bfloat16", "float8", "int8", "int4"] = Field(
        "auto",
        description="the language model's matrices in memory: bfloat16 (in OVERTONE_DTYPE), float8, int8 or int4, "
        "quantised while they are loaded; auto: as the model's files have them",
    )
    max_batch: int = Field(64, ge=1, description="sequences decoding at a time")
    max_queue: int = Field(256, ge=1, description="requests waiting; beyond it 429")
    tenant_requests: int | None = Field(
        None, ge=1, description="requests of one tenant at a time; default: 3/4 of MAX_BATCH and MAX_QUEUE together"
    )
    step_tokens: int = Field(1024, ge=16, description="tokens computed in one step at most")
    gpu_gb: float | None = Field(
        None, gt=0, description="what this process may take of its GPU, in 10^9 bytes; default: what is free"
    )
    kv_gb: float | None = Field(None, gt=0, description="KV cache; default: 0.5 on CPU, the card's rest on CUDA")
    max_context: int = Field(8192, ge=64, description="prompt and answer together, tokens")
    encoder_cache_mb: int = Field(256, ge=0, description="encoded audio kept for repeated clips")
    request_seconds: float = Field(300.0, gt=0, description="deadline of one request")
    drain_seconds: float = Field(30.0, ge=0, description="time for running requests after SIGTERM")

    long_audio: Literal["split", "reject"] = Field(
        "split", description="recordings longer than the window: cut in their pauses, or refused"
    )
    max_audio_seconds: float = Field(600.0, gt=0, description="longest recording accepted")
    max_decode_seconds: float = Field(10.0, gt=0, description="CPU time for decoding one recording")
    max_upload_mb: int = Field(64, ge=1, description="largest request body, adapters and data sets aside")

    log_format: Literal["text", "json"] = Field("text", description="text for people, json for machines")
    otel_endpoint: str | None = Field(None, description="OTLP/HTTP address for traces; none: off")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    allowed_hosts: Names = Field(
        (), description="names under which clients reach the server, such as audio.example.com, *.lan or *"
    )
    require_keys: bool = Field(
        False, description="refuse to start on an address beyond this machine without keys; the image sets it"
    )
    api_keys: Names = Field((), description="keys for every route but /health and /ready; none: open")
    admin_keys: Names = Field((), description="keys for routes that change or train adapters; none: as api_keys")
    cors_origins: Names = Field(
        (), description="origins whose pages may call this server from a browser: https://app.example …"
    )
    keys_file: Path | None = Field(None, description="keys with scopes, tenants and limits; see `overtone keys`")

    @field_validator(
        "adapter_roots",
        "adapter_sources",
        "dataset_roots",
        "allowed_hosts",
        "api_keys",
        "admin_keys",
        "cors_origins",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("adapters")
    @classmethod
    def _folder(cls, value: Path) -> Path:
        """Before a model is loaded for minutes: the registry is a folder, or can become one."""
        for place in (value, *value.parents):
            try:
                mode = place.stat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise ValueError(f"{value} cannot be the registry folder: {error.strerror}") from None
            if not stat.S_ISDIR(mode):
                raise ValueError(f"{place} is a file, and the registry is a folder")
            break
        return value

    @field_validator("weights", mode="before")
    @classmethod
    def _older_name(cls, value: object) -> object:
        return "bfloat16" if value == "full" else value

    @field_validator("keys_file", "gpu_gb", "feedback", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def host_cache_bytes(self) -> int:
        """`host_cache_mb` in bytes."""
        return self.host_cache_mb << 20

    @property
    def encoder_cache_bytes(self) -> int:
        """`encoder_cache_mb` in bytes."""
        return self.encoder_cache_mb << 20

    def most_of_a_tenant(self) -> int:
        """Requests that one tenant may have at a time: with all of them, others still find a place in the queue."""
        return self.tenant_requests or max(1, (self.max_batch + self.max_queue) * 3 // 4)

    def for_children(self) -> dict[str, str]:
        """The environment of a child process: this one's, on the same device, without the keys and the memory's cap.

        They are there and empty, since a child reads `.env` as well, where they may stand.
        """
        own = ("OVERTONE_API_KEYS", "OVERTONE_ADMIN_KEYS", "OVERTONE_KEYS_FILE", "OVERTONE_GPU_GB")
        secret = dict.fromkeys(own, "")
        kept = {name: value for name, value in os.environ.items() if name.upper() not in secret}
        shared = {"OVERTONE_SHARED_ADAPTERS": self.shared_adapters} if self.shared_adapters else {}
        return kept | secret | shared | {"OVERTONE_DEVICE": self.device}


def read_settings(**overrides: Any) -> Settings:
    """The environment's settings, and in their place those overrides that are not None. Raises BadRequest."""
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        reasons = (
            f"{'.'.join(map(str, one['loc'])) or 'settings'}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        )
        raise BadRequest(
            f"A setting is wrong: {'; '.join(reasons)}. Correct the option or the {PREFIX} variable of that name."
        ) from None


def unknown_variables() -> list[str]:
    """A sentence for each variable that begins as a setting does and is none, in the environment or in `.env`."""
    known = [*(name.upper() for name in Settings.model_fields), *CLIENTS]
    found = dict.fromkeys(os.environ, "") | dict.fromkeys(dotenv_values(ENV_FILE), f" (in {ENV_FILE})")
    sentences = []
    for name, place in sorted(found.items()):
        if not name.upper().startswith(PREFIX) or name.upper().removeprefix(PREFIX) in known:
            continue
        near = get_close_matches(name.upper().removeprefix(PREFIX), known, n=1)
        way = f"did you mean {PREFIX}{near[0]}?" if near else "docs/operations.md lists all."
        sentences.append(f"{name}{place} is no setting and changes nothing; {way}")
    return sentences
