"""What a contrastive run starts and learns from, read and put onto its device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from core.errors import SourceError
from core.files import sha256_of
from core.models.choose_clip import clip_spec
from core.models.clip.towers import (
    ClipFiles,
    lender_of,
    load_image_tower,
    load_text_tower,
    new_image_tower,
    new_text_tower,
)
from core.models.spec import ModelSpec
from core.models.weights import revision_of
from precompute.finetune.clip.asset import load_image_weights, reset_heads, start_of_logits
from precompute.finetune.clip.plan import Batch, Material
from precompute.finetune.clip.recipe import (
    FEW_VIEWS,
    FRESH_VIEWS,
    Distillation,
    LossName,
    Recipe,
)
from precompute.finetune.clip.student import Student
from precompute.finetune.clip.teacher import embed_teacher, read_teacher
from precompute.finetune.clip.towers import Tower
from precompute.finetune.shared.data import Pairs
from precompute.finetune.shared.features import image_features, text_features
from precompute.finetune.shared.images import FolderImages, Images, Joined, PixelReader
from precompute.finetune.shared.recall import owners_of

_TEACHER_FILES = (".npy", ".safetensors")


@dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        start: The model to start from.
        pairs: Images with captions to train on.
        measured: Where to measure; the first decides which epoch is kept.
        unlabelled: Images for the teacher alone.
        teacher: A file of embeddings, or an open_clip model as ``--model`` names one.
        image_weights: Weights of the image tower in place of those of ``start``.
        new_heads: Which heads start from random weights, of ``image`` and ``text``.
    """

    start: ClipFiles
    pairs: Pairs
    measured: Sequence[Pairs] = ()
    unlabelled: Sequence[FolderImages] = ()
    teacher: str | None = None
    image_weights: Path | None = None
    new_heads: tuple[str, ...] = ()

    @cached_property
    def images(self) -> Images:
        """All images, those with captions first."""
        return Joined((self.pairs, *self.unlabelled)) if self.unlabelled else self.pairs

    @cached_property
    def teacher_file(self) -> Path | None:
        """The teacher, if it is a file."""
        given = Path(self.teacher or "")
        return given if given.suffix in _TEACHER_FILES else None

    @cached_property
    def teacher_spec(self) -> ModelSpec | None:
        """The teacher, if it is a model."""
        return clip_spec(self.teacher) if self.teacher and not self.teacher_file else None

    def identity(self) -> dict[str, Any]:
        """Return what makes this run another than one with other inputs; JSON values."""
        weights = self.image_weights
        teacher = None
        if self.teacher_file:
            teacher = sha256_of(self.teacher_file)
        elif self.teacher_spec:
            teacher = revision_of(self.teacher_spec)
        return {
            "data": self.images.fingerprint,
            "model_cfg": dict(self.start.model_cfg),
            "start": revision_of(self.start.spec),
            "image_weights": sha256_of(weights) if weights else None,
            "new_heads": list(self.new_heads),
            "teacher": teacher,
        }


class Preparation:
    """Builds the student and reads what it learns from.

    Args:
        inputs: What to start and to learn from.
        recipe: How to train.
        accelerator: Where.
        out: Its ``features/`` keeps what is computed once.
        workers: Threads that decode.
        show: Whether to draw progress bars.
    """

    def __init__(
        self,
        inputs: Inputs,
        recipe: Recipe,
        accelerator: Accelerator,
        out: Path,
        workers: int | None,
        show: bool,
    ) -> None:
        """Remember what to read; read nothing."""
        self._inputs = inputs
        self._recipe = recipe
        self._accelerator = accelerator
        self._cache = out / "features"
        self._workers = workers or os.cpu_count() or 1
        self._show = show and accelerator.is_local_main_process
        self._features: torch.Tensor | None = None  # of a locked image tower
        self._drawn: set[str] = set()  # heads that start from random weights

    def read(self) -> tuple[Student, Material, Material | None]:
        """Return the student on its device, what it learns from, and what it is measured on."""
        inputs, recipe = self._inputs, self._recipe
        student = self._student()
        views = recipe.views or (
            FEW_VIEWS if student.image.body_is_locked or inputs.teacher_spec else FRESH_VIEWS
        )
        # One process computes what all read.
        with self._accelerator.main_process_first():
            teacher = self._teacher(views)
            if teacher is not None and recipe.distillation is Distillation.cosine:
                dim = inputs.start.model_cfg["embed_dim"]
                if teacher.shape[2] != dim:
                    raise SourceError(
                        f"The teacher's embeddings have {teacher.shape[2]} dimensions, the model's "
                        f"{dim}: learn their similarity instead, with --distillation similarity."
                    )
            material = self._material(student, inputs.pairs, inputs.images, views, teacher)
            probe = None
            if inputs.measured:
                first = inputs.measured[0]
                probe = self._material(student, first, first, 1, None)
        if self._features is not None:
            student.image.standardise(self._features, keep="image" not in self._drawn)
        return student, material, probe

    def _student(self) -> Student:
        inputs, recipe, start = self._inputs, self._recipe, self._inputs.start
        whole = inputs.image_weights is not None and lender_of(start) is None
        replaced = whole and "image" in inputs.new_heads
        self._image = new_image_tower(start) if replaced else load_image_tower(start)
        packaged = (start.model_cfg["text_cfg"].get("hf_model_name") or "").startswith("package:")
        # Where all of a text tower is new or in a package, its weights need not be in the file.
        bare = "text" in inputs.new_heads and packaged
        self._text = new_text_tower(start) if bare else load_text_tower(start)
        has_head = False
        if inputs.image_weights is not None:
            has_head = load_image_weights(
                self._image.module, inputs.image_weights, lent=lender_of(start) is not None
            )
        image = Tower(
            self._image.module,
            unlocked=recipe.unlock_image,
            lock_head=recipe.lock_image_head,
            dropout=recipe.dropout,
        )
        text = Tower(
            self._text.module, unlocked=recipe.unlock_text, lock_head=recipe.lock_text_head
        )
        towers = {"image": image, "text": text}
        self._drawn = set(inputs.new_heads) - ({"image"} if has_head else set())
        reset_heads(recipe.seed, *(towers[name].head for name in towers if name in self._drawn))
        if recipe.grad_checkpointing:
            for tower in (image, text):
                if not tower.body_is_locked:
                    tower.module.set_grad_checkpointing(True)
        is_siglip = recipe.loss is LossName.siglip
        new = bool(self._drawn) and recipe.logit_scale is None and not is_siglip
        scale, bias = start_of_logits(
            start, scale=14.0 if new else recipe.logit_scale, siglip=is_siglip
        )
        student = Student(image, text, scale, bias, train_bias=is_siglip)
        if set(student.trained()) <= {"logit_scale", "logit_bias"}:
            raise SourceError("Towers and heads are all locked: nothing is left to train.")
        return student.to(self._accelerator.device)

    def _teacher(self, views: int) -> torch.Tensor | None:
        inputs = self._inputs
        if inputs.teacher_file:
            return read_teacher(inputs.teacher_file, inputs.images)
        if inputs.teacher_spec is None:
            return None
        return embed_teacher(
            inputs.teacher_spec,
            inputs.images,
            views=views,
            seed=self._recipe.seed,
            cache=self._cache,
            device=str(self._accelerator.device),
            show=self._show,
        )

    def _material(
        self,
        student: Student,
        pairs: Pairs,
        images: Images,
        views: int,
        teacher: torch.Tensor | None,
    ) -> Material:
        return Material(
            name=pairs.name,
            images=self._image_reader(student.image, images, views),
            texts=self._text_reader(student.text, pairs),
            owners=owners_of(pairs),
            unlabelled=len(images) - len(pairs),
            views=views,
            teacher=teacher,
        )

    def _image_reader(
        self, tower: Tower, images: Images, views: int
    ) -> Callable[[Iterable[Batch]], Iterator[torch.Tensor]]:
        seed = self._recipe.seed
        if not tower.body_is_locked:
            size_px = min(self._image.module.image_size)
            return PixelReader(
                images, self._image.preprocess, size_px, seed=seed, workers=self._workers
            )
        features = image_features(
            tower,
            self._image.preprocess,
            images,
            views=views,
            seed=seed,
            cache=self._cache,
            show=self._show,
        )
        if self._features is None:  # the training data come first
            self._features = features
        return lambda batches: (features[list(seen), list(rows)] for rows, seen in batches)

    def _text_reader(self, tower: Tower, pairs: Pairs) -> Callable[[Sequence[int]], torch.Tensor]:
        captions = [caption for of_one in pairs.captions for caption in of_one]
        if not tower.body_is_locked:
            return lambda numbers: self._text.tokenize([captions[number] for number in numbers])
        features = text_features(
            tower, self._text.tokenize, captions, cache=self._cache, show=self._show
        )
        return lambda numbers: features[list(numbers)]
