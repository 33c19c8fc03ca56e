"""Every setting, read once from ``SIGHTLINE_*`` variables. Each default carries its reason."""

from __future__ import annotations

import math
import os
import re
import tempfile
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FilePath, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.signing import sign
from shared.store.address import parse_address
from shared.store.key_names import PREFIX, PREFIX_RULE, check_prefix
from shared.weights import Missing, folder, missing

ROOT = Path(__file__).resolve().parent.parent
#: The name of the checkpoint that comes with the repository.
DEMO_MODEL = "demo"
ENGINES = ("auto", "vllm", "transformers")
DTYPES = ("auto", "float32", "float16", "bfloat16")
#: Addresses that only this machine can reach.
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
#: What goes into the place of Redis's address, and of the files of its TLS.
ADDRESS = (
    "an address such as redis://user:password@host:6379/0, rediss:// for TLS, whose options are SIGHTLINE_REDIS_TLS_CA, _CERT, "
    "_KEY and _INSECURE, redis+sentinel://user:password@host:26379,host:26379/service, or unix:///path?db=0; a password's / "
    "and # are written as %2F and %23"
)
TLS_FILE = "the path of a PEM file that is there, beside a SIGHTLINE_REDIS_URL that begins with rediss"
#: The name that clients of the OpenAI-style server, which people come from, use.
DEFAULT_MODEL = "qwen-vl"


#: Settings of several parts, with commas between them.
_LISTS = (
    *("allow_networks", "allow_hosts", "deny_hosts", "trusted_hosts", "allow_origins", "trusted_proxies"),
    "webhook_schedule_s",
)


def _data_home() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "sightline"


class Settings(BaseSettings):
    """The settings of all parts; each part reads what concerns it."""

    model_config = SettingsConfigDict(env_prefix="SIGHTLINE_", frozen=True, extra="ignore")

    # The parts and how they meet
    #: Redis or Valkey with AOF and noeviction, see shared/store/safety.py; holds the job records and the doorbells.
    redis_url: Annotated[str, Field(description=ADDRESS)] = "redis://127.0.0.1:6379/0"
    #: Before all that we keep there: services that share a Redis have different ones, and different places for their files.
    redis_prefix: Annotated[str, Field(description=PREFIX_RULE)] = PREFIX
    #: Of a rediss:// address: the certificates that vouch for Redis, beside those that the system trusts; a PEM file.
    redis_tls_ca: Annotated[FilePath | None, Field(description=TLS_FILE)] = None
    #: Shown to a Redis that asks its clients for a certificate; also a PEM file.
    redis_tls_cert: Annotated[FilePath | None, Field(description=TLS_FILE)] = None
    #: The key of that certificate; left out: it stands in the same file.
    redis_tls_key: Annotated[FilePath | None, Field(description=TLS_FILE)] = None
    #: Believe whoever answers, so that anybody on the way can have the password and all jobs: to find a fault, no more.
    redis_tls_insecure: bool = False
    #: What a 202 is worth: ``aof`` keeps a job over a restart of Redis; ``replica`` also over the loss of its machine, since a
    #: replica says that it has the job before the 202 is sent, else it is a 503. With two replicas, one may be away.
    redis_durability: Literal["aof", "replica"] = "aof"
    #: Uploads and inline media: a folder, or s3://bucket/prefix; gateway and workers must share it. One place for one Redis:
    #: a file of ours that this Redis knows nothing of is removed after upload_ttl_s.
    blobs_url: str = Field(default_factory=lambda: str(_data_home() / "blobs"))
    host: str = "127.0.0.1"  #: loopback: whoever can reach it is already on this machine
    #: Whether clients must show an API key; left out: only where the gateway listens on more than the loopback.
    require_keys: bool | None = None
    #: Host names that a gateway without keys accepts, beside this machine's. Others are refused: a web page could point its own
    #: name here (DNS rebinding). Left out: no others, and every name where HOST is not the loopback. "gpu.example.org,api"
    trusted_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    #: Web pages of other origins that may use the gateway from a browser (CORS), or "*": "http://localhost:3000,https://example.org"
    allow_origins: Annotated[tuple[str, ...], NoDecode] = ()
    root_path: str = ""  #: the path under which a proxy shows the gateway, as in "/vision"; whether or not it cuts it off
    #: Proxies whose X-Forwarded-For and -Proto are believed, as CIDRs; left out: nobody's, since everybody can send them.
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    #: Open connections; the rest gets 503. 10,000 event streams of 20 kB and 5,000 long polls of 30 kB fit in.
    max_connections: Annotated[int, Field(ge=1)] = 16_000
    #: What `/` shows to browsers: the page, one without buttons for walls (the API stays as it is), or nothing.
    page: Annotated[bool | Literal["read-only"], Field(description="true, read-only or false")] = True
    port: Annotated[int, Field(ge=1, le=65_535)] = 8000  #: what the OpenAI-style servers people come from use
    #: What `sightline up` keeps: its Redis's data, uploads, logs, and the lock that lets one `up` at a time work on them.
    state_dir: Path = Field(default_factory=lambda: _data_home() / "up")
    #: Where Prometheus reads what a process itself does, vLLM's own figures among it; 0: nowhere. Each process has one: the
    #: parts of one `up`, and the workers of one `--gpus`, have this one and those that follow.
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    metrics_host: str = "127.0.0.1"  #: nobody is asked for a key there; 0.0.0.0 where only your own network reaches it
    #: The gateway's tells of so many keys, those with the most jobs of the day: series for thousands would swamp Prometheus.
    metrics_keys: Annotated[int, Field(ge=0)] = 20
    log_json: bool | None = None  #: JSON lines; left out: only where stderr is no terminal
    #: Traces of jobs, sent where OpenTelemetry's own OTEL_EXPORTER_OTLP_* variables say; the extra `otel` has what that needs.
    otel: bool = False

    # The engine
    #: auto | vllm | transformers, or module:Class for an engine of your own
    engine: Annotated[str, Field(description=f"{', '.join(ENGINES)} or module:Class")] = "auto"
    model: str = DEMO_MODEL  #: a folder, a name fetched by `sightline models pull`, or "demo"
    #: What a worker answers as, and which model a gateway takes for a job that names none.
    served_model_name: str = DEFAULT_MODEL
    models_dir: Path = Field(default_factory=lambda: _data_home() / "models")  #: where `sightline models pull` puts them
    #: the checkpoint's own; the demo model is meant for float32
    dtype: Annotated[str, Field(description=", ".join(DTYPES))] = "auto"
    quantization: str | None = None  #: awq, gptq; fp8 scales any checkpoint while it loads; left out: what the checkpoint says
    #: auto: the type that the model computes in, or what the checkpoint says; fp8: half of that, so that twice the tokens fit.
    #: No part of quantization, since what it costs in quality comes on top and is measured by itself.
    kv_cache_dtype: Annotated[Literal["auto", "fp8"], Field(description="auto or fp8")] = "auto"
    attn_implementation: str | None = None  #: transformers engine: flash_attention_2, sdpa, eager
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1  #: a 3B or 7B model runs best as one engine per GPU
    #: Whether a worker takes GPUs that no other one holds; left out: where its engine runs on GPUs. False lets two share one.
    claim_gpus: bool | None = None
    #: The locks of the GPUs; every worker that may meet another on a GPU must see the same folder, in a container, too.
    gpu_locks_dir: Path = Field(default_factory=lambda: Path(tempfile.gettempdir()) / f"sightline-{os.getuid()}" / "gpus")
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9  #: as in the scripts people come from
    max_model_len: Annotated[int, Field(ge=128)] = 16_384  #: 12 pictures of 1,280 tokens, or 768 frames, and the answer
    #: Pictures in one job: so many of 256 tokens fill max_model_len, and what does not fit it is refused by its tokens.
    limit_images: Annotated[int, Field(ge=0)] = 64
    limit_videos: Annotated[int, Field(ge=0)] = 1  #: videos in one job: 64 frames fill half of max_model_len
    #: Sequences in one batch. AsyncLLM's own default is 128, which an H200 outruns with a 3B model.
    max_num_seqs: Annotated[int, Field(ge=1)] = 256
    #: Share of the slots, and of max_queued, that batches leave free: a chat need not wait for the end of somebody's long
    #: answer, and finds room in the queue. A GPU is busy with seven eighths of its slots, too.
    chat_reserve: Annotated[float, Field(ge=0, lt=1)] = 0.125
    #: Tokens in one step, and the vision encoder's budget. AsyncLLM's own default, 2,048, starves both.
    max_num_batched_tokens: Annotated[int, Field(ge=256)] = 16_384
    engine_start_timeout_s: float = 1800.0  #: a 72B model from a network disk takes 20 minutes
    engine_stall_s: float = 120.0  #: an engine with work that makes no step for so long is restarted; prefills take < 10 s
    #: Processes that render and decode in front of one vLLM engine; left out: one for each four cores of a machine with a
    #: GPU, four at most. One is at a core's work with 81 small pictures a second; four have an H200 do 87 with a 3B model.
    engine_fronts: Annotated[int, Field(ge=1)] | None = None
    enforce_eager: bool = False  #: skip CUDA graphs: a faster start, slower tokens
    kv_cache_gb: float | None = None  #: the KV cache; left out: what gpu_memory_utilization leaves, without a GPU 1
    batch_window_ms: Annotated[int, Field(ge=0)] = 5  #: transformers engine: how long a batch waits for company
    batch_size: Annotated[int, Field(ge=1)] = 8  #: transformers engine: jobs in one batch

    # What a picture or video may cost; the limits are those of the Qwen2.5-VL cookbook
    min_pixels: int = 256 * 28 * 28  #: a picture costs at least 256 tokens, so that small ones stay legible
    max_pixels: int = 1280 * 28 * 28  #: and at most 1,280
    frame_min_pixels: int = 128 * 28 * 28  #: qwen-vl-utils 0.0.14, VIDEO_MIN_TOKEN_NUM
    frame_max_pixels: int = 768 * 28 * 28  #: qwen-vl-utils 0.0.14, VIDEO_MAX_TOKEN_NUM
    video_fps: float = 2.0  #: qwen-vl-utils 0.0.14, FPS
    max_frames: Annotated[int, Field(ge=2)] = 64  #: 64 frames of 128 tokens leave room in max_model_len

    # What is let in
    max_body_bytes: int = 32 * 2**20  #: JSON with data-URLs of 20 MB and some; larger files go through POST /v1/files
    max_upload_bytes: int = 256 * 2**20  #: ten minutes of phone video at 3.5 Mbit/s
    max_media_bytes: int = 256 * 2**20  #: fetched from an address
    max_image_bytes: int = 64 * 2**20  #: of one picture's file; 50 MP in a JPEG of the best quality take 40 MB
    min_free_bytes: int = 2**30  #: kept free on the disk of the blobs' folder: a full one stops Redis, and with it all jobs
    max_image_pixels: int = 200_000_000  #: what phones make; a JPEG is scaled while it is decoded, other kinds end at 52 MP
    fetch_timeout_s: float = 20.0  #: for one whole file, whose host may be slow but not endless
    fetch_min_rate: int = 10_000  #: bytes a second; a host that drips is given up after five seconds
    decode_timeout_s: float = 30.0  #: 600 frames of 4K took 6 s on one core; a busy one gets five times that
    #: Fetched files and decoded pixels that one worker holds: 320 jobs of a full picture take 1 GB, a clip of 64 frames 0.1 GB.
    media_budget_bytes: int = 4 * 2**30
    #: One for each core; eight keep ahead of any one GPU. Videos have as many of their own, which stand back for pictures.
    decode_processes: int = Field(default_factory=lambda: max(1, min(8, os.cpu_count() or 1)))
    #: Private networks that may be contacted all the same, as CIDRs: "10.0.0.0/8,127.0.0.0/8"
    allow_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    #: Where given, nothing else is contacted, for media and webhooks: "images.example.com,*.example.org"
    allow_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    deny_hosts: Annotated[tuple[str, ...], NoDecode] = ()  #: never contacted; "*.example.org" means the name itself too

    # A job's life
    #: A dead worker's job is queued again after this at the latest, and a dead runner's batch goes on.
    lease_s: Annotated[float, Field(gt=0)] = 15.0
    #: An answer that is ready is held so long for a Redis that is away: a failover takes seconds, a full disk a human.
    outage_s: float = 900.0
    rescue_every_s: float = 1.0  #: how often the fleet looks for dead workers: a lost job waits so long beyond its lease
    max_attempts: Annotated[int, Field(ge=1)] = 3  #: two crashes may be bad luck, a third is the job
    start_deadline_s: int = 24 * 3600  #: a description wanted yesterday is not worth a GPU
    run_timeout_s: int = 600  #: fetching, decoding and 32,768 tokens fit into it
    result_ttl_s: int = 24 * 3600  #: time to poll for an output; Redis keeps every one in memory
    #: How long jobs may name an upload; the file is kept longer while a job that named it needs it.
    upload_ttl_s: int = 48 * 3600
    max_queued: int = 100_000  #: about 160 MB of records; beyond it clients get 429 and come back later
    batch_window: Annotated[int, Field(ge=1)] = 256  #: lines of one batch in flight: enough to fill an engine
    max_open_batches: Annotated[int, Field(ge=1)] = 50  #: of one owner; each file may hold 50,000 lines, which is days of work
    #: Of a batch: the 24h that OpenAI's clients ask for. A job can wait for seven days, so its batch cannot have more than six.
    completion_window_s: Annotated[int, Field(ge=1, le=6 * 24 * 3600)] = 24 * 3600
    drain_s: float = 30.0  #: what SIGTERM leaves jobs in flight to finish, before they are handed back

    # Webhooks (Standard Webhooks 1.0.0)
    #: whsec_ and base64 of 24 to 64 bytes; left out: nothing is signed or sent
    webhook_secret: Annotated[SecretStr | None, Field(description="whsec_ and base64, as `sightline secret` makes it")] = None
    webhook_timeout_s: float = 15.0  #: the specification advises 15 to 30 s
    #: Deliveries that may be due to one owner's receivers, about 100 MB; what comes on top is discarded, as its log tells.
    webhook_backlog: Annotated[int, Field(ge=1)] = 100_000
    #: Delays before each attempt after the first: the specification's own, three days in all. "5,300,1800"
    webhook_schedule_s: Annotated[tuple[float, ...], NoDecode, Field(description="numbers with commas between them")] = (
        *(5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400),
    )

    @field_validator(*_LISTS, mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("*")
    @classmethod
    def _not_negative(cls, value: object) -> object:
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not 0 <= number < math.inf:
                raise ValueError
        return value

    @field_validator("root_path")
    @classmethod
    def _is_a_path(cls, value: str) -> str:
        path = value.strip("/")
        return f"/{path}" if path else ""

    _is_prefix = field_validator("redis_prefix")(check_prefix)

    @field_validator("redis_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parse_address(value)
        return value

    @field_validator("redis_tls_ca", "redis_tls_cert", "redis_tls_key")
    @classmethod
    def _has_a_use(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value and not parse_address(info.data.get("redis_url", "rediss:///0")).is_tls:
            raise ValueError  # whoever names certificates believes that the connection is safe
        return value

    @field_validator("engine", "dtype")
    @classmethod
    def _is_one_of(cls, value: str, info: ValidationInfo) -> str:
        own = info.field_name == "engine" and re.fullmatch(r"[\w.]+:\w+", value)
        if not own and value not in {"engine": ENGINES, "dtype": DTYPES}[str(info.field_name)]:
            raise ValueError
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _can_sign(cls, value: SecretStr | None) -> SecretStr | None:
        if value:
            sign(value.get_secret_value(), event_id="evt", at_s=0, body=b"")
        return value

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the gateway."""
        return self.host in LOOPBACK

    @property
    def keys_required(self) -> bool:
        """Whether clients must show an API key."""
        return not self.is_local if self.require_keys is None else self.require_keys

    @property
    def own_url(self) -> str:
        """The gateway's address, as this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def metrics_of(self, n: int) -> dict[str, str]:
        """Give the variable with which the n-th of several processes has a port for Prometheus of its own, if any has."""
        return {"SIGHTLINE_METRICS_PORT": str(self.metrics_port + n)} if self.metrics_port else {}

    @property
    def in_flight(self) -> int:
        """Jobs that one worker holds at a time: 1.25 x the engine's slots kept a simulated one 99.9 % full."""
        slots = self.max_num_seqs
        return slots + max(2, slots // 4)

    @property
    def bulk_slots(self) -> int:
        """Slots of the engine that the lines of batches may have."""
        return self.max_num_seqs - int(self.max_num_seqs * self.chat_reserve)

    @property
    def bulk_in_flight(self) -> int:
        """Jobs in flight that may be lines of batches: twice the reserve stays free, for chats that wait for a slot, too."""
        return self.in_flight - 2 * (self.max_num_seqs - self.bulk_slots)

    @property
    def model_path(self) -> Path:
        """The folder of the model, whether or not it is there."""
        if self.model == DEMO_MODEL:
            return ROOT / "demo" / "model"
        given = Path(self.model).expanduser()
        return given if given.is_dir() else folder(self.model, self.models_dir)

    @property
    def missing_model(self) -> Missing | None:
        """What is the matter with the model's weights; an engine of your own looks for itself."""
        return None if self.model == DEMO_MODEL or ":" in self.engine else missing(self.model, self.models_dir)


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """Read the settings from the environment, once.

    Raises:
        SettingsInvalid: a variable holds what its setting cannot be.
    """
    from shared.variables import SettingsInvalid, read_settings

    settings, wrong = read_settings()
    if wrong:
        raise SettingsInvalid("\n".join(wrong))
    return settings
