"""A fresh captioner's first lesson: to see in an image what its captions would mean.

As in BLIP-2's first stage, the Q-Former learns from the meanings of captions before there is a
language model that could speak. Its queries say them in the very tokens that the language model
will read, so that the second lesson, to speak, needs no image: any sentence can be read and
written, and an image's meaning can be foretold by one who never saw its captions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import SourceError
from core.files import write_atomically
from precompute.finetune.captions.batches import CaptionBatch, Features
from precompute.finetune.captions.recipe import LookingRecipe
from precompute.finetune.shared.embeddings import embed_texts, sentence_encoder, starts_of
from precompute.mini.foretelling import expected, foretell

if TYPE_CHECKING:
    import torch

    from precompute.finetune.captions.objective import CaptionObjective

_AT_ONCE = 256
_SIGHTS = ("expected", "foretold", "letters")


@dataclass(frozen=True, slots=True)
class Sights:
    """What the language model reads while it learns to speak.

    Attributes:
        expected: float32 (captions, dim): what would be foretold of images that each training
            caption describes.
        foretold: float32 (n, dim), unit norm: what each image's captions were foretold to mean by
            a network that never met it.
        letters: float32 (queries, dim, width): how each query says a meaning.
    """

    expected: np.ndarray
    foretold: np.ndarray
    letters: np.ndarray

    def tokens(self, meanings: torch.Tensor) -> torch.Tensor:
        """Return (n, queries, width): what says ``meanings`` (n, dim) to the language model."""
        import torch

        return torch.einsum("nd,qdw->nqw", meanings, torch.from_numpy(self.letters))


class MeaningReader:
    """Lets the language model read meanings in the place of images, batch by batch.

    Each caption is to be written from a blend of what it would make one expect and what was
    foretold of its image. The more there is of the caption, the more literally the language model
    learns to take what it reads; the more of the image, the more it learns to doubt.
    """

    def __init__(self, sights: Sights, counts: Sequence[int], recipe: LookingRecipe) -> None:
        """Remember where each image's captions begin."""
        self._sights = sights
        self._first = starts_of(counts)
        self._recipe = recipe

    def __call__(self, batch: CaptionBatch) -> CaptionBatch:
        """Return the batch with image tokens in the place of features; chance is torch's."""
        import torch
        from torch.nn.functional import normalize

        recipe, sights = self._recipe, self._sights
        rows = batch.rows.numpy()[batch.image_of_caption.numpy()]
        caption = torch.from_numpy(sights.expected[self._first[rows] + batch.numbers.numpy()])
        image = torch.from_numpy(sights.foretold[rows])
        share = recipe.least + (recipe.most - recipe.least) * torch.rand(len(rows), 1)
        read = normalize(caption.lerp(image, share), dim=1)
        blur = 2 * recipe.blur * torch.rand(len(rows), 1) / read.shape[1] ** 0.5
        read = normalize(read + blur * torch.randn_like(read), dim=1)
        owners = torch.arange(len(rows))
        return replace(batch, image_of_caption=owners, image_tokens=sights.tokens(read))


def learn_to_look(
    objective: CaptionObjective,
    features: Features,
    captions: Sequence[Sequence[str]],
    kept: Path,
) -> Sights:
    """Teach the Q-Former and its projection to say what an image's captions would mean.

    Args:
        objective: Around the model, whose Q-Former and projection are changed, by its recipe.
        features: Of the training images.
        captions: Of each image.
        kept: File of what an earlier run learnt, taken up if that was the same; else written.

    Raises:
        SourceError: There is only one image, which nothing could foretell.
    """
    import torch
    from safetensors.torch import save

    if len(features) < 2:
        raise SourceError("A fresh captioner needs two images with captions or more.")
    parts = _looking_parts(objective.model)
    run = _digest(objective, features, captions)
    tensors = _kept(kept, run)
    if tensors:
        for name, parameter in parts.items():
            parameter.data.copy_(tensors[name])
        return Sights(**{name: tensors[name].numpy() for name in _SIGHTS})
    recipe = objective.recipe
    texts = [text for some in captions for text in some]
    own = embed_texts(sentence_encoder(), texts, show=True)
    counts = [len(some) for some in captions]
    looking = recipe.looking or LookingRecipe()
    seen = [_summaries(objective, features.view(number)) for number in range(len(features.views))]
    teller = foretell(seen[0], own, counts, looking.folds, recipe.seed)
    foretold = [teller(each) for each in seen]
    width = objective.model.language_projection.out_features
    random = np.random.default_rng(recipe.seed)
    # Entries of about 1, as those of word embeddings.
    letters = random.standard_normal((objective.model.config.num_query_tokens, own.shape[1], width))
    sights = Sights(
        expected(own, foretold[0].repeat(counts, axis=0)), foretold[0], letters.astype(np.float32)
    )
    _fit(objective, features, [sights.tokens(torch.from_numpy(each)) for each in foretold], parts)
    tensors = {name: parameter.detach().cpu() for name, parameter in parts.items()}
    tensors |= {n: torch.from_numpy(getattr(sights, n)) for n in _SIGHTS}
    kept.parent.mkdir(parents=True, exist_ok=True)
    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(kept, save(content, metadata={"run": run}))
    return sights


def read_sights(path: Path, captions: int) -> Sights:
    """Return what a fresh captioner learnt from, to go on with it.

    Args:
        path: ``looking.safetensors`` of that training.
        captions: How many there must be.

    Raises:
        SourceError: There is no such file, or it is of other captions.
    """
    tensors = _kept(path)
    sights = {name: tensors[name].numpy() for name in _SIGHTS if name in tensors}
    if len(sights) < len(_SIGHTS):
        raise SourceError(f"{path} holds no meanings: name a run's checkpoint/{path.name}.")
    known = len(sights["expected"])
    if known != captions:
        raise SourceError(
            f"{path} has the meanings of {known} captions, --data has {captions}: "
            "give the images of that run."
        )
    return Sights(**sights)


def _digest(
    objective: CaptionObjective, features: Features, captions: Sequence[Sequence[str]]
) -> str:
    """Return what tells this lesson from those with another recipe, other images or captions."""
    recipe = objective.recipe
    texts = [instruction.text for instruction in recipe.instructions]
    # How the language model reads later changes nothing here.
    looking = replace(recipe.looking or LookingRecipe(), least=0, most=0, blur=0)
    plan = [asdict(looking), recipe.seed, recipe.feature_dropout, len(features.views), texts]
    digest = hashlib.sha256(json.dumps([plan, list(map(list, captions))]).encode())
    digest.update(features[:16].tobytes())
    return digest.hexdigest()


def _kept(path: Path, run: str | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors of a file; none if there is no such file, or it is of another run."""
    from safetensors import safe_open

    if not path.is_file():
        return {}
    with safe_open(path, framework="pt") as file:
        if run is not None and (file.metadata() or {}).get("run") != run:
            return {}
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def _looking_parts(model: Any) -> dict[str, torch.nn.Parameter]:  # noqa: ANN401 - InstructBLIP
    names = ("qformer.", "query_tokens", "language_projection.")
    return {name: p for name, p in model.named_parameters() if name.startswith(names)}


def _summaries(objective: CaptionObjective, features: Features) -> np.ndarray:
    """Return the class token of every image as the tower leaves it, float32 (n, width)."""
    import torch

    with torch.inference_mode():
        parts = [
            objective.seen(torch.from_numpy(features[start : start + _AT_ONCE]))[:, 0].cpu().numpy()
            for start in range(0, len(features), _AT_ONCE)
        ]
    return np.concatenate(parts)


def _fit(
    objective: CaptionObjective,
    features: Features,
    aims: Sequence[torch.Tensor],
    parts: dict[str, torch.nn.Parameter],
) -> None:
    """Train the Q-Former to say each view's ``aims`` (n, queries, width), whatever the prompt."""
    import torch
    from torch.nn.functional import mse_loss
    from tqdm import tqdm

    recipe = objective.recipe
    looking = recipe.looking or LookingRecipe()
    random = np.random.default_rng(recipe.seed)
    torch.manual_seed(recipe.seed)
    model = objective.model.train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    model.requires_grad_(False)
    for parameter in parts.values():
        parameter.requires_grad_(True)
    batches = max(1, len(features) // looking.batch_size)
    optimizer = torch.optim.AdamW(parts.values(), looking.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, looking.learning_rate, total_steps=looking.epochs * batches, pct_start=0.1
    )
    progress = tqdm(total=looking.epochs * batches, desc="learning to look", unit="batch")
    with progress:
        for _ in range(looking.epochs):
            for rows in np.array_split(random.permutation(len(features)), batches):
                instruction = recipe.instructions[int(random.integers(len(recipe.instructions)))]
                view = int(random.integers(len(aims)))
                seen = torch.from_numpy(features.view(view)[rows])
                said = objective.look(seen, instruction)
                loss = mse_loss(said, aims[view][rows].to(said))
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parts.values(), 1.0)
                optimizer.step()
                schedule.step()
                progress.update()
                progress.set_postfix(loss=f"{loss.item():.3f}")
    model.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
