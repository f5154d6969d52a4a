"""Teaching the namer: what a photo classifier sees, as the names that a caption can begin with.

EfficientNet-Lite2 knows ImageNet's thousand classes, which lack people, tomatoes, motorcycles. Its
last layer gets further rows: one for each thing that labelled photos show, and one for what has no
name, people among it, of whom the captioner knows more to say. They learn on its features while all
else stays as it is; what counts is the probability of a thing, that of all its classes together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from core.errors import SourceError
from core.models.captioner.caption_text import words_of
from core.models.captioner.naming import PEOPLE, Name, Namer

TABLE = Path(__file__).with_name("names.txt")
IMAGENET_CLASSES = 1000
UNNAMED = -1

_DOG = "a dog"

_STEPS = 1000
_BATCH = 256
_RATE = 0.01
_DECAY = 1e-3
_FIRST_BIAS = -4.0
_SURE = 0.5
_LARGEST = 50.0
"""Of a logit above the largest known one, so that no exponential is infinite."""


@dataclass(frozen=True, slots=True)
class Table:
    """What ``names.txt`` says.

    Attributes:
        names: The things, each once.
        of_class: For each of ImageNet's classes the place of its name, or :data:`UNNAMED`.
        of_label: The same for labels of photos, in words joined by "_".
    """

    names: tuple[Name, ...]
    of_class: tuple[int, ...]
    of_label: dict[str, int]

    def place_of(self, label: str) -> int | None:
        """Return which name a photo's label means: a label of the table, or a class of ImageNet.

        Returns:
            None if it is neither; :data:`UNNAMED` if it is one that has no name.
        """
        words = _joined(label)
        if words in self.of_label:
            return self.of_label[words]
        for ending, place in self.of_label.items():
            if ending.startswith("*") and words.endswith(ending[1:]):
                return place
        number = _imagenet_names().get(words)
        return None if number is None else self.of_class[number]

    def place_of_captions(self, captions: Sequence[str]) -> int | None:
        """Return what the captions of a photo agree on: people, who have no name here, or a dog.

        Returns:
            None if it is neither, or both.
        """
        dog = next(name for name in self.names if name.phrase == _DOG)
        people, dogs = (sum(n.said_in(text) for text in captions) for n in (PEOPLE, dog))
        if 2 * people > len(captions) and not dogs:
            return UNNAMED
        return self.names.index(dog) if 2 * dogs > len(captions) and not people else None


def read_table(path: Path = TABLE) -> Table:
    """Read the table of names.

    Raises:
        SourceError: A line of it cannot be understood.
    """
    names: dict[str, Name] = {}
    of_class = [UNNAMED] * IMAGENET_CLASSES
    of_label: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        try:
            phrase, also, classes, labels = line.split("|")
            place = UNNAMED
            if phrase:
                names.setdefault(phrase, Name(phrase, tuple(also.split())))
                place = list(names).index(phrase)
            for first, _, last in (span.partition("-") for span in classes.split()):
                for number in range(int(first), int(last or first) + 1):
                    of_class[number] = place
        except (ValueError, IndexError) as error:
            raise SourceError(f"{path.name} has a line that is no name: {line!r}.") from error
        of_label |= dict.fromkeys(labels.split(), place)
    return Table(tuple(names.values()), tuple(of_class), of_label)


def label_in(file_name: str) -> str:
    """Return the label that a photo's name holds: "kind" of ``collection_kind_012.jpg``."""
    return re.sub(r"_\d+\Z", "", Path(file_name).stem.partition("_")[2])


def train_namer(namer: Namer, table: Table, features: np.ndarray, places: np.ndarray) -> Namer:
    """Return a namer that knows ImageNet's classes, and by maximum likelihood what photos show.

    Args:
        namer: All but its names and the rows beyond ImageNet's classes is taken over.
        table: The names.
        features: float32 (n, width): what the network says of each photo.
        places: Of each photo, the place of its name, or :data:`UNNAMED`.
    """
    import torch

    added = sorted({*places.tolist(), UNNAMED})
    # The last column is what has no name, and UNNAMED points to it.
    columns = len(table.names) + 1
    rows = torch.from_numpy(features)
    weight, bias = namer.weight[:IMAGENET_CLASSES].cpu(), namer.bias[:IMAGENET_CLASSES].cpu()
    known = rows @ weight.T + bias
    peaks = known.amax(dim=1, keepdim=True)
    of_class = torch.tensor(table.of_class) % columns
    fixed = known.new_zeros(len(rows), columns).index_add(1, of_class, (known - peaks).exp())
    aims = torch.from_numpy(places).long() % columns
    own = torch.tensor(added) % columns
    further = torch.zeros(len(added), features.shape[1], requires_grad=True)
    offsets = torch.full((len(added),), _FIRST_BIAS, requires_grad=True)
    batches = max(1, len(rows) // _BATCH)
    optimizer = torch.optim.AdamW([further, offsets], lr=_RATE, weight_decay=_DECAY)
    epochs = -(-_STEPS // batches)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    order = np.random.default_rng(0)
    for _ in range(epochs):
        for part in np.array_split(order.permutation(len(rows)), batches):
            logits = rows[part] @ further.T + offsets - peaks[part]
            shares = fixed[part].index_add(1, own, logits.clamp_max(_LARGEST).exp())
            chances = shares.gather(1, aims[part, None])[:, 0] / shares.sum(dim=1)
            loss = -chances.clamp_min(1e-12).log().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    naming = replace(namer.naming, names=table.names, name_of_class=(*table.of_class, *added))
    weight = torch.cat([weight, further.detach()]).to(namer.weight)
    return Namer(naming, namer.network, weight, torch.cat([bias, offsets.detach()]).to(weight))


def measure(namer: Namer, features: np.ndarray, places: np.ndarray) -> str:
    """Return in a sentence how often a namer names photos, and how often rightly."""
    shares = namer.shares(features)[:, :-1]
    sure = shares.max(axis=1) >= _SURE
    right = shares.argmax(axis=1) == places
    return (
        f"Of {len(places):,} photos it names {sure.mean():.1%}, {right[sure].sum():,} of "
        f"{sure.sum():,} rightly; its likeliest name is right for {right[places >= 0].mean():.1%} "
        "of those that have one."
    )


def _joined(text: str) -> str:
    return "_".join(words_of(text))


@lru_cache(maxsize=1)
def _imagenet_names() -> dict[str, int]:
    """Return the number of each class of ImageNet by its names."""
    from timm.data import ImageNetInfo

    about = ImageNetInfo("imagenet-1k")
    found: dict[str, int] = {}
    for number in range(IMAGENET_CLASSES):
        for name in str(about.index_to_description(number)).split(","):
            found.setdefault(_joined(name), number)
    return found
