"""The commands against the Hub that stands in: in this process, by the real client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from core.models.profiles import PROFILES
from tests.core import planted
from tests.local_hub import LocalHub


@dataclass
class Client:
    """The commands, and the client that they use, in this process against a hub.

    Attributes:
        hub: The hub.
        home: Where the client keeps what it fetched.
    """

    hub: LocalHub
    home: Path

    @contextmanager
    def reaching(self, **environment: str) -> Iterator[None]:
        """Let the client take this hub for the Hub, as the variables would in a new process."""
        values = {**self.hub.environment(self.home), **environment}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_TOKEN", values["HF_TOKEN"])
            address = values["HF_ENDPOINT"]
            for name, value in {
                "ENDPOINT": address,
                "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
                "HF_HUB_OFFLINE": values["HF_HUB_OFFLINE"] == "1",
                "HF_HUB_DISABLE_XET": values["HF_HUB_DISABLE_XET"] == "1",
                "HF_HUB_CACHE": str(self.home / "hub"),
            }.items():
                patch.setattr(f"huggingface_hub.constants.{name}", value)
            yield

    def precompute(self, *arguments: object, **environment: str) -> SimpleNamespace:
        """Run a command; its status and what it wrote."""
        from precompute.__main__ import app

        with self.reaching(**environment):
            done = CliRunner().invoke(app, list(map(str, arguments)))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return SimpleNamespace(returncode=done.exit_code, stdout=done.stdout, stderr=done.stderr)


def publish_shapes(hub: LocalHub, folder: Path) -> str:
    """Put a gallery that the small models can search onto a hub: mine/shapes; give its commit."""
    mini = PROFILES["mini"]
    rows = planted.unit_rows(6, mini.sentence.dim), planted.unit_rows(6, mini.clip.dim, 1)
    planted.gallery_on_disk(folder / "shapes", mini, *rows, "shapes")
    client = Client(hub, folder / "home")
    done = client.precompute("publish", "gallery", folder / "shapes", "mine/shapes")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()[-40:]
