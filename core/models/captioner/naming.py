"""Naming what a photo shows, so that a caption can begin with it.

A small captioner says what it read often: a cheetah becomes a brown dog. An image classifier,
EfficientNet-Lite2 trained on ImageNet, knows the things of the world far better and cannot speak.
Where it is sure of a thing that the caption does not mention, the captioner writes again, from
that thing's name on: "a cheetah" is given, "is standing in the grass" is its own. The new caption
stays unless it is further from what the captioner's probe predicts of the photo than the
classifier's sureness makes up for: a photo of tulips is no bunch of peppers.

The file beside a captioner is written by ``python -m precompute mini names``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.errors import ModelError
from core.models.captioner.caption_text import words_of
from core.models.locate import files_of

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from core.models.spec import ModelSpec

NAMER_FILE = "naming.safetensors"
"""Beside a captioner: the classifier, and in the file's metadata its :class:`Naming`."""

_METADATA = "naming"
_HEAD = "head."
_ODDS_OF_COSINE = 12.5
"""Log-odds that a cosine of 1 is worth, chosen on captions of 365 photos of COCO and Flickr8k that
nothing was trained on."""
_LEAST_ODDS = 0.0
_LEAST_ODDS_OF_PEOPLE = 1.0
"""Chosen on labelled photos of things, by a namer that had not learnt from them, and on scenes:
with less, captions of scenes become worse; with more, fewer things are named rightly. The second is
for captions that speak of people, of whom the captioner knows more than a hat or a helmet."""
_SUREST = 0.995
"""What a classifier says above this is taken for this: it is never as sure as it says."""
LEAST_TRIED = 0.3
"""Probability of a thing under which a caption with its name is not tried."""
_LEAST_SEEN = 0.01
"""A thing less likely than this is not looked for in captions."""
_FILLERS = frozenset(("a", "an", "of", "the", "and", "bunch", "pair"))


@dataclass(frozen=True, slots=True)
class Name:
    """A thing that a caption can begin with.

    Attributes:
        phrase: With its article, in the captioner's words: "a cup of coffee".
        also: Words of which each says the same, or near enough.
    """

    phrase: str
    also: tuple[str, ...] = ()

    def said_in(self, caption: str) -> bool:
        """Whether a caption mentions it: all that the phrase is made of, or a word like it."""
        words = {form for word in words_of(caption) for form in (word, word.removesuffix("s"))}
        own = {w.removesuffix("s") for w in words_of(self.phrase) if w not in _FILLERS}
        return own <= words or not words.isdisjoint(self.also)


_PERSON = "person man men woman women boy girl child children kid kids baby guy lady crowd band"
_AT_PLAY = "player skateboarder skier snowboarder surfer rider biker cyclist hiker climber swimmer"

PEOPLE = Name("people", tuple(f"{_PERSON} {_AT_PLAY}".split()))


@dataclass(frozen=True, slots=True)
class Naming:
    """What a namer's file says of its classifier.

    Attributes:
        architecture: The network, by its name in timm.
        size: Pixels of a side that photos are resized to, not cropped.
        names: The things.
        name_of_class: For each class of the classifier the place in ``names``, -1 for none.
    """

    architecture: str
    size: int
    names: tuple[Name, ...]
    name_of_class: tuple[int, ...]

    def to_json(self) -> str:
        """Return it as text, for the file's metadata."""
        names = [[name.phrase, *name.also] for name in self.names]
        return json.dumps(
            {
                "architecture": self.architecture,
                "size": self.size,
                "names": names,
                "name_of_class": self.name_of_class,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Naming:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: It did not.
        """
        try:
            values = json.loads(text)
            names = tuple(Name(phrase, tuple(also)) for phrase, *also in values["names"])
            of_class = tuple(int(place) for place in values["name_of_class"])
            if not all(-1 <= place < len(names) for place in of_class):
                raise ValueError("a class has a name that is not there")
            return cls(
                str(values["architecture"]),
                int(values["size"]),
                names,
                of_class,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a field is missing or of another type: {error}") from error


@dataclass(frozen=True, slots=True)
class Sighting:
    """A thing that a photo shows and its caption does not mention.

    Attributes:
        name: Of the thing.
        probability: The classifier's.
    """

    name: Name
    probability: float

    def outweighs(self, caption: str, gain: float) -> bool:
        """Tell whether a caption that begins with the name takes the place of one without it.

        Args:
            caption: The one without it.
            gain: How much nearer the other is to what the captioner's probe predicts of the photo,
                a difference of two cosines.
        """
        least = _LEAST_ODDS_OF_PEOPLE if PEOPLE.said_in(caption) else _LEAST_ODDS
        probability = min(self.probability, _SUREST)
        return math.log(probability / (1 - probability)) + _ODDS_OF_COSINE * gain >= least


class Namer:
    """Says which thing a photo shows, where it is sure.

    Args:
        naming: About the classifier.
        network: Float32 pixels (n, 3, size, size) to features (n, width).
        weight: Float32 (classes, width), of the last layer.
        bias: Float32 (classes,).
    """

    def __init__(
        self, naming: Naming, network: torch.nn.Module, weight: torch.Tensor, bias: torch.Tensor
    ) -> None:
        """Keep them."""
        self.naming = naming
        self.network = network.eval()
        self.weight, self.bias = weight, bias

    def missed(self, shares: np.ndarray, captions: Sequence[str]) -> dict[int, Sighting]:
        """Return what images surely show and their captions do not mention, by their rows.

        Args:
            shares: Of each image, as :meth:`shares` returns them.
            captions: Of each image one.
        """
        found = {}
        for row, (own, caption) in enumerate(zip(shares[:, :-1], captions, strict=True)):
            name, probability = self.naming.names[int(own.argmax())], float(own.max())
            if probability >= LEAST_TRIED and not name.said_in(caption):
                found[row] = Sighting(name, probability)
        return found

    def seen(self, shares: np.ndarray, caption: str) -> float:
        """Return the probability of the things that a caption of one image mentions.

        Args:
            shares: Of the image: float64 (names + 1,).
            caption: What is said of it.
        """
        likely = np.flatnonzero(shares[:-1] >= _LEAST_SEEN)
        return float(sum(shares[row] for row in likely if self.naming.names[row].said_in(caption)))

    def features(self, images: Sequence[Image]) -> np.ndarray:
        """Return what the network says of RGB images, float32 (n, width)."""
        import torch
        from PIL.Image import Resampling

        side = (self.naming.size, self.naming.size)
        pixels = np.stack([np.asarray(im.resize(side, Resampling.BICUBIC)) for im in images])
        scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.weight) / 127.5 - 1
        with torch.inference_mode():
            found: np.ndarray = self.network(scaled).cpu().numpy()
        return found

    def shares(self, features: np.ndarray) -> np.ndarray:
        """Return each thing's probability, float64 (n, names + 1), last that of what has none."""
        import torch

        logits = torch.from_numpy(features).to(self.weight) @ self.weight.T + self.bias
        classes = logits.softmax(dim=1).cpu().numpy()
        shares = np.zeros((len(features), len(self.naming.names) + 1))
        # Of a class without a name it is -1, the last column.
        np.add.at(shares.T, np.array(self.naming.name_of_class), classes.T)
        return shares

    def to_bytes(self) -> bytes:
        """Return the contents of its file: matrices in half precision."""
        from safetensors.torch import save

        tensors = {
            **self.network.state_dict(),
            f"{_HEAD}weight": self.weight,
            f"{_HEAD}bias": self.bias,
        }
        # What a norm divides by may be too small for half precision.
        small = {n: t.half() if t.dim() > 1 else t for n, t in tensors.items()}
        contents: bytes = save(small, {_METADATA: self.naming.to_json()})
        return contents


def read_namer(captioner: ModelSpec, device: str) -> Namer | None:
    """Return a captioner's namer on a device; None if it has none.

    Raises:
        ModelNotFoundError: The captioner is not on this machine, nor reachable.
        ModelError: The file is damaged, or is no namer.
    """
    from safetensors import SafetensorError, safe_open

    path = files_of(captioner, NAMER_FILE) / NAMER_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            naming = Naming.from_json((file.metadata() or {}).get(_METADATA, ""))
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        weight, bias = (tensors.pop(f"{_HEAD}{part}") for part in ("weight", "bias"))
        if weight.shape[:1] != bias.shape or len(bias) != len(naming.name_of_class):
            raise ValueError("its last layer has other classes")
        network = build_network(naming.architecture)
        network.load_state_dict(tensors)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{NAMER_FILE} of {captioner.name} cannot be used: {error}.") from error
    return Namer(naming, network.to(device), weight.to(device), bias.to(device))


def build_network(architecture: str) -> torch.nn.Module:
    """Return an untrained network of timm that ends in its pooled features.

    Raises:
        ValueError: timm knows none by that name.
    """
    import timm

    if not timm.is_model(architecture):
        raise ValueError(f"there is no network {architecture!r}")
    network: torch.nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0)
    return network
