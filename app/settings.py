"""The only reader of the environment: every `OVERTONE_*` variable, its default and its unit."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

EMBEDDED_MODEL = Path(__file__).parent / "model" / "overtone-tiny"
Names = Annotated[tuple[str, ...], NoDecode]
Folders = Annotated[tuple[Path, ...], NoDecode]


class Settings(BaseSettings):
    """Read once, at start; handed down from there. Lists are comma-separated in the environment."""

    model_config = SettingsConfigDict(env_prefix="OVERTONE_", env_file=".env", extra="ignore", frozen=True)

    model: str = Field(
        str(EMBEDDED_MODEL), description="Hub id or local folder of a Qwen2-Audio model; random:7b to try speed"
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

    decoder: Literal["auto", "fused", "modules"] = Field(
        "auto", description="fused: Triton kernels and CUDA graphs; modules: plain torch; auto: fused on CUDA"
    )
    weights: Literal["full", "float8"] = Field(
        "full", description="float8: decoding reads a smaller copy of the weights (CUDA only; takes its memory besides)"
    )
    max_batch: int = Field(64, ge=1, description="sequences decoding at a time")
    max_queue: int = Field(256, ge=1, description="requests waiting; beyond it 429")
    step_tokens: int = Field(1024, ge=16, description="tokens computed in one step at most")
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

    @field_validator("keys_file", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return None if value == "" else value

    def for_children(self) -> dict[str, str]:
        """The environment of a child process: this one's, on the same device, without the keys.

        They are there and empty, since a child reads `.env` as well, where they may stand.
        """
        secret = dict.fromkeys(("OVERTONE_API_KEYS", "OVERTONE_ADMIN_KEYS", "OVERTONE_KEYS_FILE"), "")
        kept = {name: value for name, value in os.environ.items() if name.upper() not in secret}
        shared = {"OVERTONE_SHARED_ADAPTERS": self.shared_adapters} if self.shared_adapters else {}
        return kept | secret | shared | {"OVERTONE_DEVICE": self.device}
