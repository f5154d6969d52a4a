"""Predicting from an image the embedding of its captions, by networks that never met it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from precompute.calibrate.contrastive import fit_contrastive

_HIDDEN = 1024
_DROPOUT = 0.4
_EPOCHS = 25

_RIDGE = 3.0
"""Of the regression from a caption's embedding to what is predicted of its image."""


def predict_out_of_fold(
    features: np.ndarray, captions: np.ndarray, counts: Sequence[int], folds: int, seed: int
) -> np.ndarray:
    """Predict every image's caption embedding by cross-fitting.

    A network is trained for each fold, on the images of all others, to pick an image's captions
    out of many. So each image is predicted as an unknown image would be.

    Args:
        features: float32 (n, width): what the image tower says of each image.
        captions: float32 (captions, dim), unit norm: the embedding of each caption.
        counts: Captions of each image, in order.
        folds: Parts of the images.
        seed: Of everything.

    Returns:
        float32 (n, dim), unit norm.
    """
    import torch
    from torch import nn

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
    centre, aim = captions.mean(axis=0), predicted.mean(axis=0)
    rows = captions - centre
    gram = rows.T @ rows + _RIDGE * np.eye(captions.shape[1], dtype=np.float32)
    return (rows @ np.linalg.solve(gram, rows.T @ (predicted - aim)) + aim).astype(np.float32)
