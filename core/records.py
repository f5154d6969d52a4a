"""The small frozen values that every layer speaks in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, overload, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

Lens = Literal["captions", "clip"]
"""The two ways to search: by generated captions, or by CLIP's joint space."""

LENSES: tuple[Lens, ...] = get_args(Lens)

IndexKind = Literal["flat", "ivf", "ivfsq8", "ivfpq", "hnsw", "milvus"]
"""``flat`` compares with every vector; ``ivf`` with those of the nearest clusters only, ``ivfsq8``
and ``ivfpq`` by codes of a quarter and of a sixteenth of the size; ``hnsw`` follows a graph. All
these are FAISS's; ``milvus`` stands for a collection of that vector database."""

INDEX_KINDS: tuple[IndexKind, ...] = get_args(IndexKind)

FAISS_KINDS: tuple[IndexKind, ...] = tuple(kind for kind in INDEX_KINDS if kind != "milvus")
"""Those that are files of the gallery."""

INDEX_PAIR: tuple[IndexKind, ...] = ("flat", "ivf")
"""What small galleries and uploads have: the exact index, and one to compare it with."""


CaptionPooling = Literal["mean", "best"]
"""How several captions of an image become its place in the caption lens: ``mean`` indexes the
mean of their embeddings, ``best`` all of them, the one nearest to the query counting."""

SAMPLE_NAME = "sample-photos"
"""Name of the gallery that is served when none is given and, in its manifest, of its source."""

CORRECTED = "corrected"
"""Caption flag: a person wrote it in the captioner's place."""

UNSURE = "unsure"
"""Caption flag: the CLIP lens finds that it hardly fits its picture."""


@dataclass(frozen=True, slots=True)
class Caption:
    """What a captioner says of one image.

    Attributes:
        text: The caption; empty only if ``flags`` holds ``"empty"``.
        flags: Doubts about the text, from ``"empty"``, ``"repetition"``, ``"prompt_echo"``
            ``"retried"`` (a second decoding was used), :data:`UNSURE` and :data:`CORRECTED`.
        confidence: Mean probability of the generated tokens in [0, 1], the captioner's own,
            before any penalty of the search; None where unknown. How sure of its words the
            captioner is, which is not whether they are right.
    """

    text: str
    flags: tuple[str, ...] = ()
    confidence: float | None = None

    def plain(self) -> Caption:
        """Return it without what no record keeps."""
        return self


@dataclass(frozen=True, slots=True)
class SeenCaption(Caption):
    """A caption of a picture that a classifier saw too; no record keeps what that said.

    Attributes:
        seen: Probability in [0, 1] that the classifier, which reads no captions, gives to the
            things that the text mentions.
    """

    seen: float = 0.0

    def plain(self) -> Caption:
        """Return it without what no record keeps."""
        return Caption(self.text, self.flags, self.confidence)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One picture of a gallery or an upload.

    Attributes:
        id: The first 16 hex digits of ``sha256``: stable over rebuilds.
        file_name: Name as its owner knows it, relative to the source.
        sha256: Hex digest of the encoded bytes.
        width: Pixels, after EXIF orientation, before any reduction.
        height: Pixels, likewise.
        caption: Generated caption, or the one given by the source.
        caption_flags: See :class:`Caption`.
        confidence: See :class:`Caption`.
        references: Captions that came with the source; for evaluation only, never searched.
        license: Licence of the picture, if the source says.
        source_url: Where the picture comes from, if the source says.
        more_captions: What else the captioner says of it, none twice; searched like the first.
        text_in_picture: What can be read in it, as on a sign; "" for nothing, or if it was not
            looked for.
        text_confidence: How sure the reader is of that, in [0, 1]; None for no text.
    """

    id: str
    file_name: str
    sha256: str
    width: int
    height: int
    caption: str
    caption_flags: tuple[str, ...] = ()
    confidence: float | None = None
    references: tuple[str, ...] = ()
    license: str | None = None
    source_url: str | None = None
    more_captions: tuple[Caption, ...] = ()
    text_in_picture: str = ""
    text_confidence: float | None = None

    @property
    def captions(self) -> tuple[Caption, ...]:
        """All captions, the first one first: one or more."""
        first = Caption(self.caption, self.caption_flags, self.confidence)
        return (first, *self.more_captions)


def record_from(values: Mapping[str, Any]) -> ImageRecord:
    """Return the record whose ``asdict`` went through JSON or a table; other keys are ignored.

    Raises:
        KeyError: A list is missing.
        TypeError: Another field is missing, or a list is none.
    """
    own: dict[str, Any] = {
        each.name: values[each.name] for each in fields(ImageRecord) if each.name in values
    }
    own["caption_flags"] = tuple(values["caption_flags"])
    own["references"] = tuple(values["references"])
    # Galleries of one caption an image, and those built before there were more, leave it out.
    own["more_captions"] = captions_from(values.get("more_captions"))
    # Likewise those in which nobody looked for text.
    own["text_in_picture"] = values.get("text_in_picture") or ""
    return ImageRecord(**own)


def captions_from(values: Sequence[Mapping[str, Any]] | None) -> tuple[Caption, ...]:
    """Return the captions whose ``asdict`` went through JSON or a table; None stands for none."""
    return tuple(
        Caption(each["text"], tuple(each["flags"]), each["confidence"]) for each in values or ()
    )


class RecordSequence(Sequence[ImageRecord], ABC):
    """Records that become objects when they are asked for."""

    @abstractmethod
    def made(self, row: int) -> ImageRecord:
        """Return one, by its row from 0."""

    @overload
    def __getitem__(self, row: int) -> ImageRecord: ...

    @overload
    def __getitem__(self, row: slice) -> tuple[ImageRecord, ...]: ...

    def __getitem__(self, row: int | slice) -> ImageRecord | tuple[ImageRecord, ...]:
        """Return one, or some; rows below 0 count from the end."""
        rows = range(len(self))[row]
        return self.made(rows) if isinstance(rows, int) else tuple(map(self.made, rows))


@runtime_checkable
class RecordColumns(Protocol):
    """Records that are kept as columns, as those of a gallery are."""

    def values(self, name: str) -> Sequence[Any]:
        """Return one field of all records, in row order."""
        ...


def values_of(records: Sequence[ImageRecord], name: str) -> Sequence[Any]:
    """Return one field of all records, in row order, without making records to read it of.

    Args:
        records: Of a gallery or an upload.
        name: Of a field of :class:`ImageRecord`.
    """
    if isinstance(records, RecordColumns):
        return records.values(name)
    return [getattr(record, name) for record in records]


@dataclass(frozen=True, slots=True)
class Hit:
    """One entry of a ranking.

    Attributes:
        id: Image id.
        score: Inner product of unit vectors, in [-1, 1]; higher is better.
        rank: From 1.
        caption: Which of the image's captions is nearest to the query, from 0; 0 where the
            caption lens was not asked.
    """

    id: str
    score: float
    rank: int
    caption: int = 0


@dataclass(frozen=True, slots=True)
class FusedHit:
    """One entry of a ranking made from several.

    Attributes:
        id: Image id.
        score: Fusion score; higher is better.
        rank: From 1.
        sources: The hit in each ranking that held the image, by the ranking's name.
    """

    id: str
    score: float
    rank: int
    sources: Mapping[str, Hit] = field(default_factory=dict)


FusionKind = Literal["rrf", "cosine", "minmax", "zscore", "corrected"]
"""The ways to join the lenses; see :class:`Fusion`."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """One way to join the two lenses.

    Attributes:
        kind: ``rrf``, or how scores are normalised before they are summed: ``cosine`` (not at
            all), ``minmax`` or ``zscore``, over all pictures for each query; ``corrected`` is
            ``zscore`` less what pictures that are hubs in CLIP's space owe to that alone
            (:mod:`core.models.clip.hubs`).
        weight: Of the caption lens, in [0, 1]; the CLIP lens has the rest.
        k: Of reciprocal rank fusion; unused by sums.
    """

    kind: FusionKind
    weight: float = 0.5
    k: int = 60

    def __str__(self) -> str:
        """Say it in words, e.g. ``"z-score sum, caption weight 0.35"``."""
        if self.kind == "rrf":
            weighted = "" if self.weight == 0.5 else f", caption weight {self.weight:g}"
            return f"reciprocal rank fusion, k = {self.k}{weighted}"
        names = {"cosine": "cosine sum", "minmax": "min-max sum", "zscore": "z-score sum"}
        name = names.get(self.kind, "corrected z-score sum")
        return f"{name}, caption weight {self.weight:g}"

    @property
    def standardises(self) -> bool:
        """Whether it adds up z-scores."""
        return self.kind in ("zscore", "corrected")

    @property
    def family(self) -> Literal["rrf", "sum"]:
        """``rrf`` or ``sum``."""
        return "rrf" if self.kind == "rrf" else "sum"

    def fuse(self, captions: np.ndarray, clip: np.ndarray) -> np.ndarray:
        """Join what the lenses say of the same pictures: ranks for ``rrf``, else prepared scores.

        Args:
            captions: Float, any shape: ranks from 1, infinite where there is none, or scores as
                :func:`core.search.fusion.normalised` makes them.
            clip: Likewise, of the same shape.

        Returns:
            Float of that shape; higher is better. By rank it is the sum of ``1 / (k + rank)`` for
            equal weights (Cormack, Clarke and Büttcher, 2009, where k = 60 comes from).
        """
        if self.kind == "rrf":
            return 2 * (self.weight / (self.k + captions) + (1 - self.weight) / (self.k + clip))
        return self.weight * captions + (1 - self.weight) * clip


PLAIN_RRF = Fusion("rrf", k=60)
"""Reciprocal rank fusion as its authors set it; needs no tuning."""
