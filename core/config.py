"""Settings: the one place that reads the environment (prefix ``TWOLENS_``)."""

from __future__ import annotations

import os
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ProfileName = Literal["mini", "full"]
IndexBackend = Literal["auto", "faiss", "milvus"]

_BETWEEN_GALLERIES = re.compile(rf"(?<!\Ahf)(?<!{os.pathsep}hf){os.pathsep}")
"""The separator of PATH, where it is not the colon of ``hf:``."""


def _user_cache() -> Path:
    """Return the user's cache folder for this program, or a temporary one where there is none."""
    try:
        given = os.environ.get("XDG_CACHE_HOME")
        folder = Path(given or Path.home() / ".cache") / "twolens"
    except RuntimeError:  # neither HOME nor an entry among the system's users
        folder = None
    if folder is not None and _can_be_written(folder):
        return folder
    temporary = Path(tempfile.gettempdir()) / f"twolens-{os.getuid()}"
    try:
        temporary.mkdir(mode=0o700, exist_ok=True)
        if temporary.is_symlink() or temporary.stat().st_uid != os.getuid():
            temporary = Path(tempfile.mkdtemp(prefix="twolens-"))
    except OSError:
        pass  # whoever needs the folder will say so
    return temporary


def _can_be_written(folder: Path) -> bool:
    """Tell whether a folder may be made or written into, from what is there of its path."""
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _default_host() -> str:
    """Listen to the outside only where a Hugging Face Space runs the app."""
    return "0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1"


class Settings(BaseSettings):
    """Everything an operator can set, each by an environment variable ``TWOLENS_NAME``."""

    model_config = SettingsConfigDict(
        env_prefix="TWOLENS_", frozen=True, extra="ignore", populate_by_name=True
    )

    profile: ProfileName = Field("mini", description="Which set of models answers.")
    captioner: str | None = Field(
        None,
        min_length=1,
        description="Captioner in place of the profile's: a folder, or a Hub id, "
        "OWNER/NAME[@REVISION], of an InstructBLIP checkpoint or of a LoRA adapter of one.",
    )
    clip: str | None = Field(
        None,
        min_length=1,
        description="CLIP model in place of the profile's: a folder, or a Hub id, "
        "OWNER/NAME[@REVISION], of an open_clip model in safetensors.",
    )
    reranker: str | None = Field(
        None,
        min_length=1,
        description="Offers to rerank CLIP's first pictures by image-text matching: a folder, or a "
        "Hub id, OWNER/NAME[@REVISION], of a BLIP or BLIP-2 retrieval checkpoint in safetensors.",
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    galleries: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Galleries to serve, separated as in PATH: folders, or hf:OWNER/NAME@REVISION "
        "for one of the Hugging Face Hub.",
    )
    cache_dir: Path = Field(
        default_factory=_user_cache,
        description="Where the default gallery is kept, in the user's cache folder or, where "
        "that cannot be written to, in a temporary one.",
    )
    verify_up_to_bytes: int = Field(
        500_000_000,
        ge=0,
        description="Size up to which a gallery is read and verified whole when it is opened, in "
        "about a second; a larger one is mapped, and checked by sizes, ids and a sample.",
    )
    index_backend: IndexBackend = Field(
        "auto",
        description="What searches a gallery whose manifest names a Milvus collection beside its "
        "own indexes: auto takes Milvus if milvus_uri is set.",
    )
    milvus_uri: str | None = Field(
        None,
        min_length=1,
        description="Address of a Milvus server or cluster, http://HOST:19530, or a path that "
        "ends in .db for Milvus Lite.",
    )
    milvus_token: SecretStr = Field(
        SecretStr(""), description="Of Milvus: USER:PASSWORD, or an API key."
    )
    milvus_timeout_s: float = Field(
        5, gt=0, description="Seconds after which Milvus counts as away."
    )
    sample_photos: int | None = Field(
        None, ge=1, description="Most photos of the default gallery; all unless set."
    )
    host: str = Field(default_factory=_default_host, description="Address the app listens on.")
    port: int = Field(7860, ge=0, le=65535, description="Port the app listens on; 0 picks one.")
    max_connections: int = Field(
        512,
        ge=8,
        description="Connections that may be open at once, at most half of the process's files.",
    )
    request_timeout_s: float = Field(
        20, gt=0, description="Seconds after which a request that stops arriving is cut."
    )
    requests_per_minute: int = Field(
        600,
        ge=0,
        description="Searches, uploads and other calls that one visitor may make in a minute; "
        "0 for any number.",
    )
    trust_proxy: bool = Field(
        default_factory=lambda: bool(os.environ.get("SPACE_ID")),
        description="Whether a proxy in a private network stands before the app, whose "
        "X-Forwarded-For tells who a visitor is; true in a Hugging Face Space.",
    )
    log_requests: bool | None = Field(
        None,
        description="Whether each request is a line of JSON on standard error; unless set, where "
        "that is not a terminal.",
    )
    log_queries: bool = Field(
        False, description="Whether such a line holds the words that were searched."
    )
    metrics: bool = Field(
        False,
        description="Whether /metrics answers, to anybody, in Prometheus's form; needs "
        "prometheus-client.",
    )
    model_idle_s: float = Field(
        0,
        ge=0,
        description="Seconds without use after which a model is unloaded; 0 for never.",
    )
    max_query_chars: int = Field(1000, ge=1, description="Longest query that is answered.")
    query_cache_size: int = Field(2048, ge=0, description="Query embeddings kept in memory.")
    max_image_bytes: int = Field(50_000_000, ge=1, description="Largest file that is decoded.")
    max_image_pixels: int = Field(
        100_000_000, ge=1, description="Most pixels (width x height) that are decoded."
    )
    fetch_timeout_s: float = Field(
        30, gt=0, description="Seconds in which a picture that a dataset names by an address comes."
    )
    fetch_private: bool = Field(
        False,
        description="Whether such addresses may be in private networks: what is read there is "
        "published with the gallery.",
    )
    max_image_seconds: int = Field(
        30, ge=1, description="Longest that decoding one picture may keep a core busy."
    )
    max_decode_bytes: int = Field(
        3_000_000_000,
        ge=1,
        description="Most memory for decoding large pictures, all of them together.",
    )
    votes_file: Path | None = Field(
        None, description="SQLite file of the votes of blind duels; in the cache folder unless set."
    )
    votes_repository: str | None = Field(
        None,
        min_length=1,
        description="Dataset repository of the Hub, OWNER/NAME, that gets a copy of each vote.",
    )
    thumbnail_px: int = Field(320, ge=32, description="Longer side of a thumbnail.")
    large_px: int = Field(
        1280, ge=32, description="Longer side of the pictures that are kept for the large view."
    )

    upload_dir: Path | None = Field(
        None, description="Where uploads lie while they live; in the cache folder unless set."
    )
    max_uploads: int = Field(64, ge=1, description="Visitors' uploads that may live at once.")
    max_uploads_per_visitor: int = Field(
        16, ge=1, description="Uploads from one address that may live at once."
    )
    max_upload_files: int = Field(500, ge=1, description="Most photos of one upload.")
    max_upload_bytes: int = Field(
        1_000_000_000, ge=1, description="Most bytes of all files of one upload."
    )
    max_upload_pixels: int = Field(
        10_000_000_000, ge=1, description="Most pixels of all photos of one upload."
    )
    upload_free_bytes: int = Field(
        1_000_000_000, ge=0, description="Bytes of the disk that uploads leave free."
    )
    upload_idle_s: float = Field(
        3600, gt=0, description="Seconds without a request after which an upload is forgotten."
    )
    upload_empty_s: float = Field(
        60,
        gt=0,
        description="Seconds without a request after which an upload with no photo is forgotten.",
    )
    upload_closed_s: float = Field(
        120, ge=0, description="Seconds after its tab was closed when an upload is forgotten."
    )
    upload_max_age_s: float = Field(
        6 * 3600, gt=0, description="Seconds after which any upload is forgotten."
    )
    upload_captioner: str = Field(
        "auto",
        description="Captioner of uploads: profile, mini, or a folder with a BLIP checkpoint in "
        "safetensors; auto is the profile's, or mini where the full profile has no GPU.",
    )
    upload_batch_size: int = Field(8, ge=1, description="Photos of an upload described at once.")
    upload_queue_size: int = Field(
        20, ge=1, description="Uploads that may wait for the captioner; more are turned away."
    )
    zero_gpu: bool = Field(
        False,
        validation_alias="SPACES_ZERO_GPU",
        description="Whether GPUs are rented by the second; set by Hugging Face Spaces.",
    )

    @field_validator("galleries", mode="before")
    @classmethod
    def _split_galleries(cls, value: Any) -> Any:  # noqa: ANN401 - pydantic hands over raw input
        if isinstance(value, str):
            return tuple(part for part in _BETWEEN_GALLERIES.split(value) if part)
        return tuple(os.fspath(part) for part in value)


@cache
def get_settings() -> Settings:
    """Read the environment once and return the settings."""
    return Settings()
