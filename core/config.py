"""Settings: the one place that reads the environment (prefix ``TWOLENS_``)."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ProfileName = Literal["mini", "full"]


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twolens"


class Settings(BaseSettings):
    """Everything an operator can set, each by an environment variable ``TWOLENS_NAME``."""

    model_config = SettingsConfigDict(env_prefix="TWOLENS_", frozen=True, extra="ignore")

    profile: ProfileName = Field("mini", description="Which set of models answers.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    galleries: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Gallery folders to serve, separated as in PATH."
    )
    cache_dir: Path = Field(
        default_factory=_user_cache, description="Where the default gallery is kept."
    )
    host: str = Field("127.0.0.1", description="Address the app listens on.")
    port: int = Field(7860, ge=0, le=65535, description="Port the app listens on; 0 picks one.")
    max_query_chars: int = Field(1000, ge=1, description="Longest query that is answered.")
    query_cache_size: int = Field(2048, ge=0, description="Query embeddings kept in memory.")
    max_image_bytes: int = Field(50_000_000, ge=1, description="Largest file that is decoded.")
    max_image_pixels: int = Field(
        100_000_000, ge=1, description="Most pixels (width x height) that are decoded."
    )
    thumbnail_px: int = Field(320, ge=32, description="Longer side of a thumbnail.")

    @field_validator("galleries", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:  # noqa: ANN401 - pydantic hands over raw input
        if isinstance(value, str):
            return tuple(Path(part) for part in value.split(os.pathsep) if part)
        return value


@cache
def get_settings() -> Settings:
    """Read the environment once and return the settings."""
    return Settings()
