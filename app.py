"""Starts TwoLens: ``python app.py [--gallery DIR ...]``, then open the address it prints."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pydantic import ValidationError

from core.config import Settings, get_settings
from core.errors import REFUSALS, SourceError, TwoLensError, VoteError, sentence_of
from core.images.sandbox.decoder_pool import close_decoders
from core.quiet import quiet_libraries

if TYPE_CHECKING:
    from core.duel.votes import Votes
    from core.models.matcher import Matcher
    from core.models.profiles import Models, Profile
    from core.models.spec import Captioner
    from core.ui.galleries.locations import GalleryPlace
    from core.ui.galleries.shelf import AwaitedGallery, Shelf
    from core.ui.operation.health import Health
    from core.uploads.registry import Uploads

logger = logging.getLogger("twolens")

_FRESH_S = 2.0
"""Between two looks at whether a gallery that is served was built anew."""
_LEAN_S = 5.0
"""Between two looks at whether a model was idle for too long."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the galleries, serve the page until interrupted, and return the exit status.

    Args:
        arguments: As on the command line; None reads them from there.

    Returns:
        0 after an orderly end; 2 if a gallery is refused, a model is missing, the port is taken or
        the system refuses something; 130 after Ctrl-C.
    """
    settings = settings_from(arguments)
    try:
        return _run(settings)
    except REFUSALS as error:
        print(sentence_of(error), file=sys.stderr)  # noqa: T201 - the operator's terminal
        return 2
    except KeyboardInterrupt:
        return 130


def _run(settings: Settings) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for ours in ("twolens", "core"):
        logging.getLogger(ours).setLevel(logging.INFO)
    models = open_models(settings)
    shelf = open_shelf(settings, models)
    awaited = shelf.awaited
    uploads = open_uploads(settings, models)
    if settings.model_idle_s:
        args = (models, uploads.captioner, settings.model_idle_s)
        threading.Thread(target=_keep_lean, args=args, name="models", daemon=True).start()
    # A host that stops a Space sends SIGTERM, which by itself would leave visitors' photos.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if awaited is not None:
            threading.Thread(
                target=_finish,
                args=(awaited, shelf, models, settings.max_query_chars),
                name="first-gallery",
                daemon=True,
            ).start()
        serve(shelf, settings, uploads)
    except OSError as error:
        if error.filename is not None:
            raise
        print(_cannot_listen(settings), file=sys.stderr)  # noqa: T201
        return 2
    except SystemExit:
        logger.info("ended by SIGTERM")
    finally:
        if awaited is not None:
            awaited.stop()
        close_decoders()
        uploads.close()
    return 0


def _cannot_listen(settings: Settings) -> str:
    where = f"{settings.host}:{settings.port}"
    if settings.port == 0:
        return f"Cannot listen on {where}: no free port was found."
    return (
        f"Cannot listen on {where}: another program uses that port, or this address is not "
        "this machine's. Choose another by --port NUMBER (--port 0 takes a free one) or --host."
    )


def end_process(status: int) -> NoReturn:
    """End now: what is registered for the end is done, but no thread is waited for.

    An interpreter that ends by itself waits for every thread of a pool, however long the photo
    takes that it decodes or describes.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it is gone
            stream.flush()
    os._exit(status)


def open_shelf(settings: Settings, models: Models | None = None) -> Shelf:
    """List the galleries of the settings, or the default gallery if there are none.

    The first is opened, the others when they are chosen. A default gallery that is not there yet,
    or not measured, becomes the shelf's ``awaited``.

    Raises:
        GalleryError: The first gallery cannot be served.
        HubError: It is one of the Hub and cannot be had, or is not what was published.
        ModelError: The profile's models are not there.
    """
    from core.ui.galleries.locations import place_of
    from core.ui.galleries.shelf import Shelf

    models = models or open_models(settings)
    profile = models.profile
    places: list[GalleryPlace | Path] = [
        place_of(gallery, settings.cache_dir, profile) for gallery in settings.galleries
    ]
    sample = None
    if not places:
        from precompute.build.sample_gallery import SampleGallery

        try:
            sample = SampleGallery(settings.cache_dir, profile, settings.sample_photos)
            places = [sample.folder] if sample.unusable is None else []
        except SourceError as error:
            # The page itself then says that it has no gallery, and what to run.
            logger.warning("%s", error)
    shelf = Shelf.open(places, profile, models, max_query_chars=settings.max_query_chars)
    if sample is not None and not (places and sample.measured):
        shelf.awaited = sample
    return shelf


def open_models(settings: Settings) -> Models:
    """Return the models of the profile, none of them loaded."""
    from core.models.choose import with_captioner, with_clip, with_matcher
    from core.models.profiles import PROFILES, Models

    # A GPU that is rented by the second is for captions; a query is quicker on the CPU.
    device = "cpu" if settings.zero_gpu else settings.device
    profile = with_clip(PROFILES[settings.profile], settings.clip)
    profile = with_matcher(profile, settings.reranker)
    return Models(
        with_captioner(profile, settings.captioner),
        device=device,
        query_cache_size=settings.query_cache_size,
        matcher=rented_matcher(profile, settings),
    )


def rented_matcher(profile: Profile, settings: Settings) -> Matcher | None:
    """Return what reranks on a GPU that is rented by the second; None where none is, or nothing.

    Raises:
        ModelError: The model cannot be loaded, which is done before a GPU is rented.
    """
    if profile.matcher is None or not settings.zero_gpu or not find_spec("spaces"):
        return None
    import spaces

    from core.models.matcher import ImageTextMatcher
    from core.uploads.zero_gpu import RentedMatcher

    return RentedMatcher(ImageTextMatcher(profile.matcher, device="cuda"), spaces.GPU)


def open_uploads(settings: Settings, models: Models) -> Uploads:
    """Return the place for visitors' own photos; what a killed process left there is deleted.

    Raises:
        UploadError: Its folder belongs to someone else.
        ModelError: A GPU is rented, and the captioner for it cannot be loaded.
    """
    from core.uploads.captioner import first_guess_s, upload_captioner
    from core.uploads.registry import Uploads

    captioner = upload_captioner(models.profile, settings, models.captioner, models.sentence)
    guess = first_guess_s(captioner, settings.device)
    return Uploads(settings, models, captioner, guess)


def serve(shelf: Shelf, settings: Settings, uploads: Uploads | None = None) -> None:
    """Serve the page over open galleries until the process is interrupted."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    quiet_libraries(downloads=settings.profile == "full")
    from core.ui.launch import launch
    from core.ui.operation.health import Health

    health = Health(shelf)
    threading.Thread(target=_warm_up, args=(health, shelf), name="warm-up", daemon=True).start()
    threading.Thread(target=_keep_fresh, args=(shelf,), name="galleries", daemon=True).start()
    launch(
        shelf,
        host=settings.host,
        port=settings.port,
        uploads=uploads,
        settings=settings,
        health=health,
        votes=open_votes(settings),
    )


def open_votes(settings: Settings) -> Votes | None:
    """Return the votes of blind duels; None, and a line in the log, if they cannot be kept."""
    from core.duel.votes import Votes, mirror_to

    path = settings.votes_file or settings.cache_dir / "votes" / "votes.sqlite"
    try:
        mirror = None
        if settings.votes_repository:
            mirror = mirror_to(settings.votes_repository, path.parent / "mirrored")
        return Votes(path, mirror)
    except (VoteError, OSError, ValueError) as error:
        logger.warning("there are no blind duels: %s", sentence_of(error))
        return None


def _finish(awaited: AwaitedGallery, shelf: Shelf, models: Models, max_query_chars: int) -> None:
    """Build and measure what is missing of the default gallery while the page is served."""
    try:
        if not shelf.entries:
            awaited.build()
            for encoder in (models.sentence, models.clip):
                encoder.encode_text(["a photo"])  # so that the page's first answer comes at once
            shelf.add(awaited.folder, models, max_query_chars=max_query_chars)
        awaited.measure()
    except REFUSALS as error:
        awaited.trouble = sentence_of(error)
        logger.warning("%s", awaited.trouble)
    else:
        shelf.awaited = None


def _keep_fresh(shelf: Shelf) -> None:
    while True:
        time.sleep(_FRESH_S)
        try:
            shelf.refresh()
        except Exception:  # the next round must come whatever happens in this one
            logger.exception("looking for replaced galleries failed")


def _keep_lean(models: Models, describes: Captioner, idle_s: float) -> None:
    """Unload models that nobody has used for a while."""
    while True:
        time.sleep(min(idle_s, _LEAN_S))
        try:
            if unloaded := models.unload_idle(idle_s, describes):
                logger.info("unloaded after %g s without use: %s", idle_s, ", ".join(unloaded))
        except Exception:  # the next round must come whatever happens in this one
            logger.exception("unloading idle models failed")


def _warm_up(health: Health, shelf: Shelf) -> None:
    try:
        health.warm_up()
        shelf.fetch_others()
    except TwoLensError as error:
        logger.warning("the first search will fail: %s", error)


def settings_from(arguments: Sequence[str] | None) -> Settings:
    """Return the environment's settings, changed by the command line; a wrong value exits."""
    # Not by pydantic-settings' command line, see docs/design.md.
    parser = argparse.ArgumentParser(
        prog="app.py",
        description="Serve TwoLens in a browser.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--gallery",
        dest="galleries",
        action="append",
        metavar="DIR_OR_HUB_ID",
        help="a gallery to serve: a folder, or hf:OWNER/NAME@REVISION for one of the Hugging Face "
        "Hub; may be given more than once (default: one of photos that ship inside installed "
        "packages)",
    )
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="port to listen on; 0 picks a free one")
    parser.add_argument("--profile", choices=("mini", "full"), help="which models answer")
    parser.add_argument(
        "--captioner",
        metavar="PATH_OR_HUB_ID",
        help="describe photos with this InstructBLIP checkpoint or LoRA adapter",
    )
    parser.add_argument(
        "--clip",
        metavar="PATH_OR_HUB_ID",
        help="search by this open_clip model; galleries must have been built with it",
    )
    given = vars(parser.parse_args(arguments))
    try:
        return Settings(**{**get_settings().model_dump(), **given})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        parser.error(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")


if __name__ == "__main__":
    end_process(main())
