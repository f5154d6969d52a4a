"""Every error that TwoLens raises on purpose, as one tree.

::

    TwoLensError
    ├── InputError                 a value from a visitor or a caller
    │   ├── QueryError             query, k, nprobe, lens or index kind
    │   ├── UnknownImageError      no such image id in the gallery
    │   ├── ImageError             one file that cannot be used, with the reason
    │   ├── VoteError              a vote in a blind duel that cannot be taken
    │   ├── UploadError            an upload that has ended, is busy, or finds no room
    │   └── SourceError            a dataset or folder that cannot be read as asked
    ├── GalleryError               a gallery on disk, with its path
    │   ├── GalleryNotFoundError
    │   ├── IncompleteGalleryError
    │   ├── CorruptGalleryError
    │   ├── ManifestMismatchError
    │   └── GalleryExistsError
    ├── DecodingStoppedError       a picture that nobody waits for any more
    ├── ModelError                 a model that cannot be loaded or run
    │   ├── ModelNotFoundError
    │   ├── MissingDependencyError
    │   └── EmbeddingError         not float (n, dim), not finite, or not of unit norm
    ├── IndexUnavailableError      the server of an index does not answer, or lost it
    └── HubError                   the Hub cannot be reached, refuses, or has something else

``str(error)`` is one sentence (or two: what is wrong, then the remedy) that may be shown to a
visitor: it never holds a path of the server beyond what the operator typed. The data behind the
sentence are attributes.
"""

from __future__ import annotations

import os
from pathlib import Path


class TwoLensError(Exception):
    """Root of every error raised on purpose; ``str()`` is fit for a visitor's eyes."""


class InputError(TwoLensError):
    """A value that a visitor or a caller gave is outside what is accepted."""


class QueryError(InputError):
    """A search request that cannot be answered: empty or overlong query, k, nprobe, lens, index."""


class UnknownImageError(InputError):
    """An image id that the gallery does not hold.

    Attributes:
        image_id: The id as given.
    """

    def __init__(self, image_id: str) -> None:
        """Keep the id; the sentence quotes at most 40 characters of it."""
        self.image_id = image_id
        super().__init__(f"No picture has the id {image_id[:40]!r} in this gallery.")


class ImageError(InputError):
    """One file that cannot be used as an image.

    Attributes:
        file_name: Name as its owner knows it, never a path of the server.
        reason: What is wrong and the limit, without the name, e.g. ``"is truncated"``.
    """

    def __init__(self, file_name: str, reason: str) -> None:
        """Compose ``"NAME REASON."``; the name is shortened to 80 characters."""
        self.file_name = file_name
        self.reason = reason
        shown = file_name if len(file_name) <= 80 else file_name[:60] + "…" + file_name[-16:]
        super().__init__(f"{shown} {reason}.")


class VoteError(InputError):
    """A vote in a blind duel that cannot be taken, or votes that cannot be opened."""


class UploadError(InputError):
    """An upload that cannot go on as asked: it has ended, is busy, or there is no room for it."""


class SourceError(InputError):
    """A dataset or a folder that cannot be read as asked: missing, empty, or without a column."""


class DecodingStoppedError(TwoLensError):
    """Decoding was stopped, or the program is ending; the picture itself may be good."""

    def __init__(self) -> None:
        """There is one sentence."""
        super().__init__("Decoding was stopped.")


class GalleryError(TwoLensError):
    """A gallery on disk that cannot be served or written.

    Attributes:
        path: The gallery's folder, as the operator gave it.
    """

    def __init__(self, path: Path, sentence: str) -> None:
        """Keep the path beside the sentence."""
        self.path = path
        super().__init__(sentence)


class GalleryNotFoundError(GalleryError):
    """The folder does not exist."""


class IncompleteGalleryError(GalleryError):
    """The folder has no manifest: a build that did not finish, or no gallery at all."""


class CorruptGalleryError(GalleryError):
    """A file of the gallery is missing or differs from the hash in the manifest.

    Attributes:
        what: What is wrong, without the gallery's name, e.g. ``"clip.npy is missing"``.
    """

    def __init__(self, path: Path, what: str) -> None:
        """Name the gallery and what to run."""
        self.what = what
        super().__init__(
            path,
            f"Gallery {path.name} is damaged: {what}. "
            f"Build it again with: python -m precompute build SOURCE --out {path} --overwrite",
        )


class ManifestMismatchError(GalleryError):
    """The gallery was built by another model or format than the one that would search it.

    Attributes:
        field: Dotted name of the manifest field.
        expected: What the running program needs.
        found: What the manifest says.
    """

    def __init__(
        self, path: Path, field: str, expected: object, found: object, remedy: str = ""
    ) -> None:
        """Quote the field and both values, and say what to run before a rebuild."""
        self.field = field
        self.expected = expected
        self.found = found
        super().__init__(
            path,
            f"Gallery {path.name} does not match: {field} is {found!r}, but {expected!r} is "
            f"needed. {remedy}Rebuild it with: python -m precompute build SOURCE --out {path} "
            "--overwrite",
        )


class GalleryExistsError(GalleryError):
    """The output folder exists and replacing it was not asked for."""


class ModelError(TwoLensError):
    """A model that cannot be loaded or run."""


class ModelNotFoundError(ModelError):
    """Weights that are neither on this machine nor reachable.

    Attributes:
        model: Name of the model.
    """

    def __init__(self, model: str, remedy: str) -> None:
        """Say which model is missing and what to do."""
        self.model = model
        super().__init__(f"The model {model} could not be found. {remedy}")


class MissingDependencyError(ModelError):
    """A package that an option needs is not installed.

    Attributes:
        package: Its name on the registry.
    """

    def __init__(self, package: str, needed_for: str, install: str = "") -> None:
        """Name the package, what needs it, and the command that installs it.

        Args:
            package: Its name on the registry.
            needed_for: What cannot be done without it.
            install: What ``pip install`` is given; the package unless it is another.
        """
        self.package = package
        super().__init__(
            f"{needed_for} needs {package}. Install it with: pip install {install or package}"
        )


class EmbeddingError(ModelError):
    """Embeddings that cannot be indexed or searched with; the sentence quotes the numbers."""


class IndexUnavailableError(TwoLensError):
    """The server that holds an index does not answer, or does not hold it any more.

    Attributes:
        uri: Of the server, for the log; visitors are not told.
    """

    def __init__(self, uri: str, *, is_missing: bool = False) -> None:
        """Say that it may be tried again, or what brings a missing index back."""
        self.uri = uri
        super().__init__(
            "The index server does not hold this index; its operator makes it again by: python -m "
            "precompute index GALLERY --index milvus"
            if is_missing
            else "The index server does not answer; try again in a moment."
        )


class HubError(TwoLensError):
    """The Hugging Face Hub cannot be reached, refuses, or does not hold what was published."""


REFUSALS = (TwoLensError, OSError, MemoryError)
"""What ends a command in one sentence, :func:`sentence_of`; anything else is a fault of ours."""


def sentence_of(error: BaseException) -> str:
    """Return one sentence for the terminal on an error of ours, or of the system.

    Args:
        error: One of :data:`REFUSALS`.
    """
    if isinstance(error, TwoLensError):
        return str(error)
    if isinstance(error, MemoryError):
        return "There is not enough memory for this."
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:300]
    name = getattr(error, "filename", None)
    if not isinstance(name, (str, bytes)):
        return f"The system stopped this: {reason or type(error).__name__}."
    return f"The system stopped this at {os.fsdecode(name)}: {reason}."
