"""What a manifest says of one index: how it was trained, and what it finds at which effort."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from core.records import IndexKind

_Share = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EffortPoint(_Frozen):
    """What searches at one effort find, and cost.

    Attributes:
        effort: nprobe of the IVF kinds, efSearch of ``hnsw``.
        recall: Share of the ten nearest vectors that are found: recall@10 against flat. Of several
            sorts of queries, that of which the least is found.
        compared: Share of all vectors that a query is compared with. What a search costs, on
            every machine.
    """

    effort: int = Field(ge=1)
    recall: _Share
    compared: float = Field(ge=0)


class IndexEntry(_Frozen):
    """One index of a lens.

    Attributes:
        kind: Of the index.
        nlist: Clusters, of the IVF kinds.
        trained_on: Vectors that it was trained with.
        effort: What a search takes unless it asks for another; the least that was found to reach
            :data:`core.search.engines.training.RECALL_GOAL`. None leaves it to the kind.
        recall: At that effort.
        queries: How many queries measured it, none of them a vector that it was trained with.
        query_origin: ``vectors`` of the gallery that were held out, or ``texts``: captions as the
            lens's text encoder embeds them, which for CLIP lie apart from the pictures.
        curve: Rising in effort.
    """

    kind: IndexKind
    nlist: int | None = Field(default=None, ge=1)
    trained_on: int = Field(default=0, ge=0)
    effort: int | None = Field(default=None, ge=1)
    recall: _Share | None = None
    queries: int = Field(default=0, ge=0)
    query_origin: Annotated[str, Field(pattern=r"\A(vectors|texts)\z")] = "vectors"
    curve: tuple[EffortPoint, ...] = ()
