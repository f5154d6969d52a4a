"""Whether the app can answer, and if not, why: for a load balancer, a container, an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core.errors import TwoLensError
from core.ui.operation.route_names import HEALTH_PATH
from core.ui.parts.events import sentence_for

if TYPE_CHECKING:
    from core.ui.galleries.listed import ListedGallery
    from core.ui.galleries.shelf import Shelf


class Health:
    """What is known of the galleries and of the models that embed queries.

    Args:
        shelf: The galleries.
    """

    def __init__(self, shelf: Shelf) -> None:
        """Expect to be able to answer; nothing is loaded."""
        self._shelf = shelf
        self._warming = False
        self._trouble = ""

    def warm_up(self) -> None:
        """Load what a first search needs; until that is done the app is not ready.

        Raises:
            TwoLensError: A model cannot be loaded, or there is no gallery.
        """
        self._warming, self._trouble = True, ""
        try:
            self._shelf.warm_up()
        except Exception as error:
            self._trouble = sentence_for(error, "warm-up")
            raise
        finally:
            self._warming = False

    def report(self) -> dict[str, Any]:
        """Return what ``/health`` answers: status, why not ready, models and galleries."""
        entries = self._shelf.entries
        models = self._models()
        reasons = []
        awaited = self._shelf.awaited
        building = awaited is not None and not entries and not awaited.trouble
        if building:
            reasons.append("The first gallery is being built.")
        elif not entries:
            reasons.append("No gallery is served.")
        if self._warming:
            reasons.append("The models that embed queries are being loaded.")
        elif self._trouble and not all(model["loaded"] for model in models.values()):
            reasons.append(self._trouble)
        status = "ready" if not reasons else "starting" if self._warming or building else "failing"
        return {
            "status": status,
            "reasons": reasons,
            "profile": self._shelf.profile.name,
            "models": models,
            "galleries": [_described(listed) for listed in self._shelf.listed],
        }

    @property
    def is_ready(self) -> bool:
        """Whether a search would be answered."""
        return self.report()["status"] == "ready"

    def route(self) -> Route:
        """Return ``/health``: 200 if the app can answer, 503 if not, and why as JSON."""

        async def health(_: Request) -> Response:
            report = self.report()
            status = 200 if report["status"] == "ready" else 503
            return JSONResponse(report, status, headers={"Cache-Control": "no-store"})

        return Route(HEALTH_PATH, health, methods=["GET", "HEAD"])

    def _models(self) -> dict[str, dict[str, Any]]:
        profile = self._shelf.profile
        if not self._shelf.entries:
            return {}
        loaded = self._shelf.entries[0].service.models.loaded()
        return {
            "captions": {"name": profile.sentence.name, "loaded": loaded["captions"]},
            "clip": {"name": profile.clip.name, "loaded": loaded["clip"]},
        }


def _described(listed: ListedGallery) -> dict[str, Any]:
    entry = listed.opened
    try:
        in_place = entry.gallery.is_in_place() if entry else None
    except (TwoLensError, OSError):
        in_place = False
    return {
        "name": listed.name,
        "images": listed.manifest.counts.images if listed.manifest else None,
        "open": entry is not None,
        "trouble": listed.trouble,
        "version": entry.version if entry else None,
        "on_disk": in_place,
    }
