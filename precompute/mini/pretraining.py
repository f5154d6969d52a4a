"""How the small captioner learns: its Q-Former from caption embeddings, then its T5 from those.

As in BLIP-2's first stage, the Q-Former learns before there is a language model that can write:
its query tokens come to encode the sentence embedding of an image's captions. The second stage
needs no image, for the T5 reads embeddings in the same tokens: a blend of the caption's own and of
what was predicted of its image by a network that never met it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import load_file, save
from torch import nn
from torch.nn.functional import mse_loss, normalize

from core.errors import SourceError
from core.files import write_atomically
from core.models.profiles import PROFILES
from core.models.sentence.encoder import MiniLmEncoder
from precompute.calibrate.probe import fit_contrastive
from precompute.finetune.captions.batches import CaptionBatch
from precompute.finetune.captions.job import CHECKPOINT, Job, Split, Transform
from precompute.finetune.shared.loop import Loop, Schedule

if TYPE_CHECKING:
    from sklearn.linear_model import Ridge

    from precompute.finetune.captions.objective import CaptionObjective
    from precompute.sources.pairs import Pairs

TARGETS = "targets.safetensors"
_AT_ONCE = 256
_HIDDEN = 1024
_DROPOUT = 0.4
_EPOCHS = 25

_RIDGE = 3.0
"""Of regressions from a caption's embedding to what is known of its image."""


@dataclass(frozen=True, slots=True)
class PretrainingRecipe:
    """How the Q-Former learns, and what the language model reads.

    Attributes:
        epochs: Passes over the images, for the Q-Former and its projection.
        batch_size: Images in such a batch.
        learning_rate: Peak, likewise.
        folds: Parts of the images, each predicted without having been seen.
        least: Least share of the image's prediction in what the language model reads to write a
            caption, the rest being the caption's own. The less, the more literally it reads.
        most: Largest share; it is drawn for each caption.
        noise: Mean length of the noise on that, whose own length is 1.
    """

    epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    folds: int = 5
    least: float = 0.2
    most: float = 0.8
    noise: float = 0.3


@dataclass(frozen=True, slots=True)
class Targets:
    """The embeddings that the language model reads while it learns to write.

    Attributes:
        from_captions: float32 (captions, dim): what would be predicted of images that each training
            caption describes.
        predicted: float32 (n, dim), unit norm: what was predicted of each image.
        projections: float32 (queries, dim, width): how each query token encodes an embedding.
    """

    from_captions: np.ndarray
    predicted: np.ndarray
    projections: np.ndarray

    def tokens(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return (n, queries, width): what encodes embeddings (n, dim) for the language model."""
        return torch.einsum("nd,qdw->nqw", embeddings, torch.from_numpy(self.projections))

    def write(self, folder: Path) -> None:
        """Keep them for a second stage."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / TARGETS, save(asdict(self)))

    @classmethod
    def read(cls, folder: Path, captions: int) -> Targets:
        """Return what a captioner of so many captions learnt from.

        Raises:
            SourceError: There are none, or they are of other captions.
        """
        if not (folder / TARGETS).is_file():
            raise SourceError(f"{folder.parent} is no first stage of mini captioner.")
        found = cls(**load_file(folder / TARGETS))
        if len(found.from_captions) != captions:
            raise SourceError(
                f"{folder.parent} has the embeddings of {len(found.from_captions)} captions, "
                f"--data has {captions}: give the images of that run."
            )
        return found


def embeddings_to_read(
    job: Job, pairs: Pairs, recipe: PretrainingRecipe, earlier: Path | None = None
) -> tuple[Split, Transform]:
    """Teach the Q-Former, or take what an earlier run taught; the T5 then reads embeddings.

    Args:
        job: Of the captioner.
        pairs: Images with captions.
        recipe: How.
        earlier: Folder of a first stage; without one the job's own Q-Former is taught.

    Returns:
        The training split, without features where no image is looked at, and what puts embeddings
        into the place of its images.

    Raises:
        SourceError: The earlier run learnt from other captions, or there is only one image.
    """
    counts = [len(own) for own in pairs.captions]
    if earlier is not None:
        targets = Targets.read(earlier / CHECKPOINT, sum(counts))
        split = Split.unseen(pairs.captions)
    else:
        split = job.split(pairs)
        targets = teach_qformer(job.objective, split, recipe)
        if job.processes.is_main_process:
            targets.write(job.folder / CHECKPOINT)
    return split, embedding_inputs(targets, counts, recipe)


def embedding_inputs(
    targets: Targets, counts: Sequence[int], recipe: PretrainingRecipe
) -> Transform:
    """Return what puts a blend of a caption's embedding and its image's prediction into a batch.

    Args:
        targets: Both.
        counts: Captions of each image, in order.
        recipe: How they are blended.
    """
    first = np.cumsum(counts) - counts

    def read(batch: CaptionBatch) -> CaptionBatch:
        rows = batch.rows.numpy()[batch.image_of_caption.numpy()]
        caption = torch.from_numpy(targets.from_captions[first[rows] + batch.numbers.numpy()])
        image = torch.from_numpy(targets.predicted[rows])
        share = recipe.least + (recipe.most - recipe.least) * torch.rand(len(rows), 1)
        blend = normalize(caption.lerp(image, share), dim=1)
        noise = 2 * recipe.noise * torch.rand(len(rows), 1) / blend.shape[1] ** 0.5
        blend = normalize(blend + noise * torch.randn_like(blend), dim=1)
        owners = torch.arange(len(rows))
        return replace(batch, image_of_caption=owners, image_tokens=targets.tokens(blend))

    return read


def teach_qformer(objective: CaptionObjective, split: Split, recipe: PretrainingRecipe) -> Targets:
    """Teach the Q-Former and its projection to encode the embedding of an image's captions.

    Args:
        objective: Around the model, whose Q-Former and projection are changed.
        split: The training images and their captions.
        recipe: How.

    Raises:
        SourceError: There is only one image, of which nothing could be predicted.
    """
    features, captions = split.features, split.captions
    if len(features) < 2:
        raise SourceError("A fresh captioner needs two images with captions or more.")
    embeddings = embed_captions(captions)
    counts = [len(own) for own in captions]
    model, seed = objective.model, objective.recipe.seed
    tokens = read_all(lambda rows: objective.normed(rows)[:, 0], features)
    predicted = predict_out_of_fold(tokens, embeddings, counts, recipe.folds, seed)
    width = model.language_projection.out_features
    shape = (model.config.num_query_tokens, embeddings.shape[1], width)
    targets = Targets(
        regress_captions(embeddings, predicted.repeat(counts, axis=0)),
        predicted,
        # Entries of about 1, as those of word embeddings.
        np.random.default_rng(seed).standard_normal(shape).astype(np.float32),
    )
    _fit(objective, features, targets.tokens(torch.from_numpy(predicted)), recipe)
    return targets


def embed_captions(captions: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the sentence embeddings of images' captions, float32 (captions, dim), unit norm."""
    encoder = MiniLmEncoder(PROFILES["mini"].sentence)
    return encoder.encode_text([text for own in captions for text in own])


def read_all(read: Callable[[torch.Tensor], torch.Tensor], features: np.ndarray) -> np.ndarray:
    """Return what ``read`` makes of images' features, float32 (n, ...), some of them at once."""
    with torch.inference_mode():
        parts = [
            read(torch.from_numpy(np.float32(features[start : start + _AT_ONCE])))
            for start in range(0, len(features), _AT_ONCE)
        ]
    return torch.cat(parts).float().cpu().numpy()


def _fit(
    objective: CaptionObjective,
    features: np.ndarray,
    targets: torch.Tensor,
    recipe: PretrainingRecipe,
) -> None:
    """Train the Q-Former to give an image's ``targets`` (n, queries, width) for any prompt."""
    seed, instructions = objective.recipe.seed, objective.recipe.instructions
    names = ("qformer.", "query_tokens", "language_projection.")
    parts = {n: p for n, p in objective.model.named_parameters() if n.startswith(names)}
    before = {p: p.requires_grad for p in objective.model.parameters()}
    for parameter in before:
        parameter.requires_grad_(any(parameter is part for part in parts.values()))
    steps = max(1, len(features) // recipe.batch_size)

    def batches(epoch: int, _: int) -> Iterator[tuple[np.ndarray, int]]:
        random = np.random.default_rng([seed, epoch])
        for rows in np.array_split(random.permutation(len(features)), steps):
            yield rows, int(random.integers(len(instructions)))

    def backward(batch: tuple[np.ndarray, int]) -> dict[str, float]:
        rows, prompt = batch
        objective.model.train()
        seen = torch.from_numpy(features[rows].astype(np.float32))
        encoded = objective.image_tokens(seen, instructions[prompt])
        loss = mse_loss(encoded, targets[rows].to(encoded))
        loss.backward()
        return {"loss": loss.item()}

    groups: list[dict[str, Any]] = [
        {"params": list(parts.values()), "lr": recipe.learning_rate, "weight_decay": 0.01}
    ]
    schedule = Schedule(recipe.epochs, steps, seed=seed)
    Loop[tuple[np.ndarray, int]](parts, groups, schedule).fit(batches, backward)
    for parameter, trained in before.items():
        parameter.requires_grad_(trained)


def predict_out_of_fold(
    features: np.ndarray, captions: np.ndarray, counts: Sequence[int], folds: int, seed: int
) -> np.ndarray:
    """Predict every image's caption embedding by cross-fitting: as that of an unknown image.

    A network is trained for each fold, on all others, to pick an image's captions out of many.

    Args:
        features: float32 (n, width): what the image tower says of each image.
        captions: float32 (captions, dim), unit norm: their embeddings.
        counts: Captions of each image, in order.
        folds: Parts of the images.
        seed: Of everything.

    Returns:
        float32 (n, dim), unit norm.
    """
    folds = min(folds, len(features))
    held_out_fold = np.random.default_rng(seed).permutation(len(features)) % folds
    centre, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    images = torch.from_numpy((features - centre) / scale).float()
    texts = torch.from_numpy(captions)
    predicted = np.empty((len(features), captions.shape[1]), dtype=np.float32)
    for fold in range(folds):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Dropout(_DROPOUT),
            nn.Linear(images.shape[1], _HIDDEN),
            nn.GELU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(_HIDDEN, texts.shape[1]),
        )
        others = np.flatnonzero(held_out_fold != fold)
        fit_contrastive(network, images, texts, counts, others, seed=seed, epochs=_EPOCHS)
        own = np.flatnonzero(held_out_fold == fold)
        with torch.inference_mode():
            predicted[own] = network.eval()(images[own]).numpy()
    return predicted / np.linalg.norm(predicted, axis=1, keepdims=True)


def regress_captions(captions: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return what would be predicted of an image that each caption describes, by ridge regression.

    A prediction is vaguer than captions are, in some directions more than in others.

    Args:
        captions: float32 (captions, dim): the embedding of each caption.
        predicted: float32 (captions, dim): what was predicted of its image.

    Returns:
        float32 (captions, dim), the shorter the less a caption says of it.
    """
    found: np.ndarray = ridge_regression(captions, predicted).predict(captions)
    return found


def ridge_regression(inputs: np.ndarray, aims: np.ndarray) -> Ridge:
    """Fit what brings (n, dim) to (n, width)."""
    from sklearn.linear_model import Ridge

    return Ridge(alpha=_RIDGE, solver="cholesky").fit(inputs, aims)
