from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from core.clip_towers import CONFIG_NAME, LOCAL_WEIGHTS_NAME, find_clip_files, load_image_tower
from core.encoders import ClipEncoder
from core.errors import SourceError
from precompute.finetune.checkpoints import load_checkpoint
from precompute.finetune.clip_asset import load_trunk
from precompute.finetune.contrastive import train
from precompute.finetune.contrastive_recipe import Recipe
from precompute.finetune.data import load_pairs
from precompute.finetune.frozen_features import image_features
from precompute.finetune.projection_training import Features, Projections, fit
from precompute.finetune.retrieval import evaluate, recall
from tests.tiny_clip import TINY_CFG, TINY_MINILM_CFG, build_tiny_clip

COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 200, 30),
    "blue": (20, 30, 220),
    "yellow": (230, 220, 20),
    "white": (245, 245, 245),
    "black": (10, 10, 10),
}
RECIPE = Recipe(epochs=6, batch_size=6, learning_rate=3e-3, dropout=0.1, views=2, seed=3)


def _imagefolder(folder, captions=None):
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (name, rgb) in enumerate(list(COLOURS.items()) * 2):
        file_name = f"{number:02d}-{name}.png"
        Image.new("RGB", (48 + number, 40), rgb).save(folder / file_name)
        texts = [f"a {name} wall", f"something painted {name}"][: 1 + number % 2]
        lines.append({"file_name": file_name, "captions": captions or texts})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return load_pairs(_imagefolder(tmp_path_factory.mktemp("colours")))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    spec = build_tiny_clip(tmp_path_factory.mktemp("start"), model_cfg=TINY_MINILM_CFG)
    return find_clip_files(spec)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pairs, start):
    out = tmp_path_factory.mktemp("run") / "clip"
    recalls = train(start, pairs, [pairs], out, RECIPE, show=False)
    return out, recalls


def _clip(folder, dim=16):
    from core.models import ModelSpec

    return ClipEncoder(ModelSpec("run", f"path:{folder}", licence="", dim=dim), device="cpu")


def test_pairs_come_in_order_with_all_their_captions(pairs):
    assert len(pairs) == 12
    image, captions = pairs[7]
    assert captions == ("a green wall", "something painted green")
    assert image.size == (55, 40)
    assert image.getpixel((5, 5)) == COLOURS["green"]
    assert pairs.file_name(7) == "07-green.png"


def test_the_same_rows_have_the_same_fingerprint_however_their_path_is_spelled(tmp_path):
    (tmp_path / "inner").mkdir()
    source = _imagefolder(tmp_path / "photos")
    detour = str(tmp_path / "inner" / ".." / "photos")
    assert load_pairs(source).fingerprint == load_pairs(detour).fingerprint
    other = _imagefolder(tmp_path / "other", captions=["a wall"])
    assert load_pairs(source).fingerprint != load_pairs(other).fingerprint


def test_a_limit_keeps_the_first_rows(tmp_path):
    source = _imagefolder(tmp_path)
    assert [c[0] for c in load_pairs(source, limit=2).captions] == ["a red wall", "a green wall"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"split": "test"}, "no split 'test', only train"),
        ({"caption_column": "title"}, "no column 'title'.*--caption-column"),
        ({"image_column": "photo"}, "no column 'photo'.*--image-column"),
    ],
)
def test_a_missing_split_or_column_is_named(tmp_path, options, sentence):
    with pytest.raises(SourceError, match=sentence):
        load_pairs(_imagefolder(tmp_path), **options)


def test_a_source_without_captions_is_refused(tmp_path):
    with pytest.raises(SourceError, match="holds no captions"):
        load_pairs(_imagefolder(tmp_path, captions=[" "]))


def test_recall_counts_ranks_and_gives_no_credit_for_ties():
    images = np.eye(12, dtype=np.float32)
    texts = np.stack([images[3] + 0.5 * images[4], images[5] + 2 * images[6], np.ones(12)])
    found = recall("planted", images, texts, [3, 5, 0])
    assert (found.at_1, found.at_5, found.at_10) == (33.33, 66.67, 66.67)
    assert (found.images, found.queries) == (12, 3)


def test_training_finds_the_right_colour_and_reports_what_a_search_sees(trained, pairs):
    out, (found,) = trained
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["recall"] == [found.as_json()]
    assert metrics["data"] == {"name": pairs.name, "images": 12, "captions": 18}
    assert [line["epoch"] for line in metrics["history"]] == list(range(1, 7))
    assert metrics["history"][-1]["loss"] < metrics["history"][0]["loss"]
    assert found == evaluate(_clip(out), pairs)
    assert (found.images, found.queries) == (12, 18)


def test_what_is_written_is_half_precision_and_leaves_the_packaged_transformer_out(trained, start):
    out, _ = trained
    with safe_open(out / LOCAL_WEIGHTS_NAME, framework="pt") as file:
        names = set(file.keys())
        assert {file.get_tensor(n).dtype for n in names} <= {torch.float16, torch.int64}
    assert {"visual.trunk.conv_stem.weight", "text.proj.0.weight", "logit_scale"} <= names
    assert not any(name.startswith("text.transformer.") for name in names)
    assert json.loads((out / CONFIG_NAME).read_text(encoding="utf-8")) == start.config


def test_the_towers_stay_as_they_were(trained, start):
    out, _ = trained
    before = load_image_tower(start).module.get_submodule("trunk").state_dict()
    after = load_image_tower(_clip(out)._files.get()).module.get_submodule("trunk").state_dict()
    for name, tensor in before.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(after[name], tensor.half().float(), msg=name)


def test_a_run_that_stops_after_any_epoch_ends_in_the_same_weights(trained, pairs, start, tmp_path):
    out, _ = trained
    features = _features(pairs, start, tmp_path)
    whole = _projections(features)
    path, other = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    fit(whole, features, RECIPE, checkpoint=path, identity={"run": 1}, show=False)

    class StoppedError(Exception):
        pass

    def stop(self, features):
        raise StoppedError

    stopping = type("Stopping", (Projections,), {"recall": stop})
    for _ in range(3):  # each call saves one epoch, then dies while measuring it
        with pytest.raises(StoppedError):
            fit(
                _projections(features, stopping),
                features,
                RECIPE,
                checkpoint=other,
                identity={"run": 1},
                probe=features,
                show=False,
            )
    again = _projections(features)
    lines = fit(again, features, RECIPE, checkpoint=other, identity={"run": 1}, show=False)
    assert [line["epoch"] for line in lines] == [4, 5, 6]
    for (name, expected), found in zip(
        whole.state_dict().items(), again.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, msg=name)


def _features(pairs, start, cache):
    image = image_features(load_image_tower(start), pairs, views=2, seed=0, cache=cache, show=False)
    owners = [row for row, captions in enumerate(pairs.captions) for _ in captions]
    text = torch.randn(len(owners), 8, generator=torch.Generator().manual_seed(0)).half()
    return Features(image, text, owners, "colours")


def _projections(features, kind=Projections):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        image = nn.Sequential(nn.Linear(features.images.shape[2], 12), nn.GELU(), nn.Linear(12, 6))
        made = kind(image, nn.Linear(8, 6), 14.0)
    made.standardise(features.images, keep=True)
    return made


def test_standardising_and_absorbing_leave_what_the_projection_gives(pairs, start, tmp_path):
    features = _features(pairs, start, tmp_path)
    projections = _projections(features)
    raw = features.images[0].float()
    with torch.no_grad():
        standard = projections._image(features.images[0])
        assert not torch.allclose(nn.functional.normalize(projections.image(raw), dim=-1), standard)
        projections.absorb()
        absorbed = nn.functional.normalize(projections.image(raw), dim=-1)
    torch.testing.assert_close(absorbed, standard, rtol=0, atol=1e-4)


def test_a_checkpoint_of_another_recipe_is_not_taken_up(trained, pairs, start):
    out, _ = trained
    with pytest.raises(SourceError, match="another recipe"):
        train(start, pairs, [], out, dataclasses.replace(RECIPE, seed=4), show=False)


def test_no_checkpoint_means_no_finished_epoch(tmp_path):
    module = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    path = tmp_path / "none.safetensors"
    assert load_checkpoint(path, recipe={}, modules=module, optimizer=optimizer) == 0


def test_views_are_the_image_its_mirror_and_crops_and_are_computed_once(pairs, start, tmp_path):
    tower = load_image_tower(start)
    two = image_features(tower, pairs, views=2, seed=0, cache=tmp_path, show=False)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    three = image_features(tower, pairs, views=3, seed=0, cache=tmp_path, show=False)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    torch.testing.assert_close(three[:2], two, rtol=0, atol=0)
    with torch.inference_mode():
        pixels = tower.preprocess(pairs.image(4))[None]
        alone = tower.module.get_submodule("trunk")(pixels)[0]
    torch.testing.assert_close(two[0, 4].float(), alone, rtol=1e-2, atol=1e-2)


def test_weights_named_otherwise_are_matched_by_order_and_shape(start, tmp_path):
    trunk = load_image_tower(start).module.get_submodule("trunk")
    renamed = {f"_layer.{n}": t + 1 for n, t in enumerate(trunk.state_dict().values())}
    torch.save({**renamed, "_fc.weight": torch.zeros(10, 4)}, tmp_path / "weights.pth")
    expected = {name: tensor + 1 for name, tensor in trunk.state_dict().items()}
    load_trunk(trunk, tmp_path / "weights.pth")
    for name, tensor in trunk.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)


def test_weights_of_another_architecture_or_with_code_are_refused(start, tmp_path):
    trunk = load_image_tower(start).module.get_submodule("trunk")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(SourceError, match="another architecture"):
        load_trunk(trunk, tmp_path / "other.pth")
    torch.save({"a": print}, tmp_path / "code.pth")
    with pytest.raises(SourceError, match="cannot be read as weights"):
        load_trunk(trunk, tmp_path / "code.pth")


def test_a_model_of_another_kind_or_too_few_images_are_refused(pairs, start, tmp_path):
    plain = find_clip_files(build_tiny_clip(tmp_path / "plain", model_cfg=TINY_CFG))
    with pytest.raises(SourceError, match="timm image tower"):
        train(plain, pairs, [], tmp_path / "out", RECIPE, show=False)
    many = dataclasses.replace(RECIPE, batch_size=13)
    with pytest.raises(SourceError, match="12 images, fewer than a batch of 13"):
        train(start, pairs, [], tmp_path / "out", many, show=False)
