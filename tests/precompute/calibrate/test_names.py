"""``mini names``: a namer that learns from labelled photos, and the table that it names by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from core.models.captioner.naming import NAMER_FILE, Namer, Naming, build_network, read_namer
from core.models.locate import ASSETS
from core.models.spec import ModelSpec
from precompute.__main__ import app
from precompute.calibrate.names.classes import IMAGENET_CLASSES, UNNAMED, label_in, read_table

COLOURS = {"tomato": (210, 30, 20), "cucumber": (20, 160, 40), "brain": (120, 120, 130)}


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec(folder.name, f"path:{folder}", licence="none")


def photo(colour, random) -> Image.Image:
    noise = random.integers(-15, 15, (48, 64, 3)) + np.array(colour)
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Photos with a label in a table, with one in their names, and a namer that knows nothing."""
    root, random = tmp_path_factory.mktemp("names"), np.random.default_rng(0)
    for kind in ("labelled", "named", "captioner"):
        (root / kind).mkdir()
    with (root / "labelled" / "metadata.jsonl").open("w") as file:
        for number in range(30):
            label = list(COLOURS)[number % 3]
            photo(COLOURS[label], random).save(root / "labelled" / f"{number}.png")
            file.write(json.dumps({"file_name": f"{number}.png", "label": label}) + "\n")
            name = f"things_{label}_{number:03}.jpg"
            photo(COLOURS[label], random).save(root / "named" / name)
    photo((0, 0, 0), random).save(root / "named" / "things_nothing_known_001.jpg")
    torch.manual_seed(0)
    naming = Naming("test_efficientnet", 64, (), (-1,) * IMAGENET_CLASSES)
    network = build_network(naming.architecture)
    torch.nn.init.constant_(network.bn2.weight, 2000.0)  # else it hardly says anything
    weight, bias = torch.zeros(IMAGENET_CLASSES, network.num_features), torch.zeros(1000)
    namer = Namer(naming, network, weight, bias)
    (root / "captioner" / NAMER_FILE).write_bytes(namer.to_bytes())
    return root


def test_the_command_teaches_what_labelled_photos_show(folders):
    arguments = [
        "mini",
        "names",
        str(folders / "captioner"),
        "--device",
        "cpu",
    ]
    arguments += ["--labelled", str(folders / "labelled"), "--named", str(folders / "named")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Of 12 photos it names" in result.output
    namer = read_namer(spec_of(folders / "captioner"), "cpu")
    random = np.random.default_rng(1)
    photos = [photo(colour, random) for colour in COLOURS.values()]
    shares = namer.shares(namer.features(photos))
    missed = namer.missed(shares, ["a picture"] * 3)
    assert {row: sighting.name.phrase for row, sighting in missed.items()} == {
        0: "a bunch of tomatoes",
        1: "a cucumber",
    }
    assert namer.missed(shares, ["a tomato", "a man with a cucumber", "a picture"]) == {}


def test_without_a_namer_the_command_says_what_is_missing(tmp_path, folders):
    result = CliRunner().invoke(
        app, ["mini", "names", str(tmp_path), "--labelled", str(folders / "labelled")]
    )
    assert result.exit_code == 2
    assert NAMER_FILE in result.output


def test_labels_mean_things():
    table = read_table()

    def meant(label: str) -> str | None:
        place = table.place_of(label)
        return None if place in (None, UNNAMED) else table.names[place].phrase

    assert label_in("objects_cougar_body_007.jpg") == "cougar_body"
    assert meant("cougar_body") == meant("cougar") == "a cougar"
    assert meant("garant ecological medium fat milk") == "a carton of milk"
    assert meant("golden retriever") == "a dog"
    assert table.place_of("faces") == table.place_of("abacus") == UNNAMED
    assert table.place_of("no such thing") is None
    dog = table.names[table.place_of("dalmatian")]
    assert table.names[table.place_of_captions(["a dog runs", "two dogs", "grass"])] == dog
    assert table.place_of_captions(["a man runs", "a boy", "grass"]) == UNNAMED
    assert table.place_of_captions(["a man with a dog", "a boy", "a dog runs"]) is None


def test_the_captioner_knows_every_word_of_every_name():
    tokenizer = json.loads((ASSETS / "mini-instructblip" / "tokenizer.json").read_text())
    words = {word for name in read_table().names for word in name.phrase.split()}
    assert words <= tokenizer["model"]["vocab"].keys()
