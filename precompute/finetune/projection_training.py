"""The training loop: two projections learn one space from the features of frozen towers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from precompute.finetune.checkpoints import load_checkpoint, save_checkpoint
from precompute.finetune.contrastive_recipe import Recipe
from precompute.finetune.retrieval import Recall, recall

_WARM_UP = 0.3
_MAX_LOGIT_SCALE = math.log(100)
_OWN_SEED_PER_EPOCH = 1_000_003


@dataclass(frozen=True, slots=True)
class Features:
    """What the frozen towers say of a dataset.

    Attributes:
        images: float16 (views, n, image features).
        texts: float16 (captions, text features), the captions of image 0 first.
        owners: For every caption, the row of its image; ascending.
        name: What the dataset is, for a report.
    """

    images: torch.Tensor
    texts: torch.Tensor
    owners: Sequence[int]
    name: str


class Projections(nn.Module):
    """The trained part of a CLIP model: one projection a tower, and the temperature.

    While training, image features are centred and scaled to unit variance: pooled activations
    are all positive, and dropping some of them would shift the rest. :meth:`standardise` starts
    that without changing what the image projection gives, :meth:`absorb` ends it.

    Args:
        image: Maps image features to the joint space; its first layer is linear with a bias.
        text: Maps text features to it.
        logit_scale: Inverse temperature at the start.
    """

    image_mean: torch.Tensor
    image_deviation: torch.Tensor

    def __init__(self, image: nn.Module, text: nn.Module, logit_scale: float) -> None:
        """Take the projections as they are."""
        super().__init__()
        self.image = image
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))
        self.register_buffer("image_mean", torch.zeros(self._first.in_features))
        self.register_buffer("image_deviation", torch.ones(()))

    @property
    def _first(self) -> nn.Linear:
        return next(module for module in self.image.modules() if isinstance(module, nn.Linear))

    @torch.no_grad()
    def standardise(self, images: torch.Tensor, *, keep: bool) -> None:
        """Centre and scale image features from now on.

        Args:
            images: float16 (views, n, features), to take mean and deviation from.
            keep: Adapt the image projection so that its output stays the same; else it is taken
                as meant for standardised features.
        """
        self.image_mean.copy_(images.float().mean(dim=(0, 1)))
        self.image_deviation.copy_(images.float().std(dim=(0, 1)).mean())
        if keep:
            first = self._first
            first.bias += first.weight @ self.image_mean
            first.weight *= self.image_deviation

    @torch.no_grad()
    def absorb(self) -> None:
        """Move centring and scaling into the image projection, which then takes raw features."""
        first = self._first
        first.weight /= self.image_deviation
        first.bias -= first.weight @ self.image_mean
        self.image_mean.zero_()
        self.image_deviation.fill_(1)

    def _image(self, images: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
        standard = (images.float() - self.image_mean) / self.image_deviation
        return functional.normalize(self.image(functional.dropout(standard, dropout)), dim=-1)

    def _text(self, texts: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self.text(texts.float()), dim=-1)

    def loss(
        self, images: torch.Tensor, texts: torch.Tensor, *, dropout: float = 0.0
    ) -> torch.Tensor:
        """Return the symmetric InfoNCE loss of matching rows: float32 ().

        Args:
            images: float16 (n, image features), as the trunk gives them.
            texts: float16 (n, text features).
            dropout: Share of the image features that is dropped.
        """
        scale = self.logit_scale.clamp(max=_MAX_LOGIT_SCALE).exp()
        logits = scale * self._image(images, dropout) @ self._text(texts).T
        own = torch.arange(len(logits))
        across = functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)
        return across / 2

    @torch.inference_mode()
    def recall(self, features: Features) -> Recall:
        """Search every caption among the first views of all images."""
        self.eval()
        image, text = self._image(features.images[0]), self._text(features.texts)
        return recall(features.name, image.numpy(), text.numpy(), features.owners)


def fit(
    projections: Projections,
    features: Features,
    recipe: Recipe,
    *,
    checkpoint: Path,
    identity: Mapping[str, Any],
    probe: Features | None = None,
    show: bool = True,
) -> list[dict[str, Any]]:
    """Train the projections in place; go on from ``checkpoint`` if it is there.

    A resumed run ends in the same weights as one that was never stopped.

    Args:
        projections: What learns.
        features: What it learns from.
        recipe: How.
        checkpoint: File that is replaced after every epoch.
        identity: JSON values that must be equal for a checkpoint to be taken up.
        probe: Recall on it is measured after every epoch.
        show: Whether to draw a progress bar.

    Returns:
        For every epoch run now: its number, mean loss, temperature and recall.

    Raises:
        SourceError: The checkpoint belongs to another run.
    """
    decayed = [p for name, p in projections.named_parameters() if name != "logit_scale"]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": [projections.logit_scale], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
    )
    done = load_checkpoint(checkpoint, recipe=identity, modules=projections, optimizer=optimizer)
    choices = _captions_of(features.owners, features.images.shape[1])
    epochs = tqdm(
        range(done, recipe.epochs),
        initial=done,
        total=recipe.epochs,
        desc="epochs",
        disable=not show,
    )
    history = []
    for epoch in epochs:
        loss = _epoch(projections, features, choices, recipe, optimizer, epoch)
        save_checkpoint(
            checkpoint, epoch=epoch + 1, recipe=identity, modules=projections, optimizer=optimizer
        )
        scale = float(projections.logit_scale.detach().exp())
        line: dict[str, Any] = {"epoch": epoch + 1, "loss": round(loss, 4), "logit_scale": scale}
        if probe is not None:
            line["recall"] = projections.recall(probe).as_json()
            epochs.set_postfix(loss=f"{loss:.3f}", r5=line["recall"]["at_5"])
        history.append(line)
    return history


def _epoch(
    projections: Projections,
    features: Features,
    choices: torch.Tensor,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    epoch: int,
) -> float:
    """Train for one epoch, seeded by its number, and return the mean loss."""
    views, images, _ = features.images.shape
    steps = images // recipe.batch_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed * _OWN_SEED_PER_EPOCH + epoch)
        order = torch.randperm(images)
        view = torch.randint(0, views, (images,))
        # Images differ in their number of captions, so the draw is a share of it.
        number = (torch.rand(images) * (choices[:, 1] - choices[:, 0])).long()
        caption = choices[:, 0] + number
        projections.train()
        total = 0.0
        for step in range(steps):
            rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            loss = projections.loss(
                features.images[view[rows], rows],
                features.texts[caption[rows]],
                dropout=recipe.dropout,
            )
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(recipe, epoch * steps + step, recipe.epochs * steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
    return total / steps


def _learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Rise to the recipe's rate in the first part of the run, then fall to nothing, as cosines."""
    turn = _WARM_UP * steps
    if step < turn:
        return recipe.learning_rate * (0.04 + 0.96 * (1 - math.cos(math.pi * step / turn)) / 2)
    return recipe.learning_rate * (1 + math.cos(math.pi * (step - turn) / (steps - turn))) / 2


def _captions_of(owners: Sequence[int], images: int) -> torch.Tensor:
    """Return int64 (images, 2): the first caption of every image, and the one after its last."""
    ends = torch.bincount(torch.tensor(owners), minlength=images).cumsum(0)
    return torch.stack([torch.cat([torch.zeros(1, dtype=ends.dtype), ends[:-1]]), ends], dim=1)
