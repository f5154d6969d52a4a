"""A gallery on the Hub and back: published, pinned, damaged, and out of reach."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.config import Settings
from core.errors import HubError
from core.gallery.hub_copy import HubGallery, is_on_hub, local_copy
from core.gallery.reader import Gallery
from core.models.profiles import Profile
from tests.core import planted
from tests.hub_client import Client
from tests.local_hub import READER, LocalHub, local_hub


@pytest.fixture
def hub():
    with local_hub() as running:
        yield running


class Tries:
    """Runs commands against the hub, with folders that they share."""

    def __init__(self, hub: LocalHub, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.models = planted.profile(folder / "models")
        self.cache = folder / "cache"
        self.gallery = folder / "birds"
        planted.gallery_on_disk(
            self.gallery, self.models, planted.unit_rows(5, 8), planted.unit_rows(5, 6, 1), "birds"
        )

    def publish(self, *options: str, to: str = "mine/birds", **environment: str):
        arguments = ("publish", "gallery", self.gallery, to, *options)
        return Client(self.hub, self.folder / "home").precompute(*arguments, **environment)

    def open(self, reference: str, models: Profile | None = None, **environment: str) -> list[str]:
        """Open a gallery of the hub; its captions."""
        models = models or self.models
        with Client(self.hub, self.folder / "home").reaching(**environment):
            folder = local_copy(reference, self.cache, models)
        return [record.caption for record in Gallery.open(folder, models).records]

    def refusal(self, reference: str, models: Profile | None = None) -> str:
        """Try to open a gallery of the hub; why not."""
        with pytest.raises(HubError) as caught:
            self.open(reference, models)
        return str(caught.value)

    def held(self) -> dict[str, bytes]:
        return self.hub.repositories["datasets/mine/birds"].files("main")[1]


@pytest.fixture
def tries(hub, tmp_path) -> Tries:
    return Tries(hub, tmp_path)


def pinned(done: SimpleNamespace) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.split("--gallery ")[1].strip()


def sentence(done: SimpleNamespace) -> str:
    assert done.returncode == 2, done.stdout
    return done.stderr.strip().splitlines()[-1]


def test_a_gallery_comes_back_as_it_was_and_stays_when_the_hub_is_gone(tries, hub, caplog):
    caplog.set_level(logging.INFO)
    reference = pinned(tries.publish())
    captions = [record.caption for record in planted.records(5)]
    assert reference.startswith("hf:mine/birds@") and len(reference) == 14 + 40
    assert tries.open(reference) == captions
    folder = tries.cache / "hub" / "mine--birds" / reference[-40:] / "birds"
    here = {p.relative_to(tries.gallery) for p in tries.gallery.rglob("*") if p.is_file()}
    there = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    assert there == here
    assert all((folder / p).read_bytes() == (tries.gallery / p).read_bytes() for p in here)

    assert tries.open("hf:mine/birds") == captions
    assert f"main of mine/birds is commit {reference[-40:]}; to pin it: " in caplog.text
    asked = len(hub.asked)
    assert tries.open(reference) == captions
    assert len(hub.asked) == asked, "a pinned copy asks nobody"
    hub.is_down = True
    assert tries.open("hf:mine/birds") == captions
    assert "cannot be reached" in caplog.messages[-1] and reference[-40:] in caplog.messages[-1]
    assert tries.open("hf:mine/birds", HF_HUB_OFFLINE="1") == captions
    assert "HF_HUB_OFFLINE is set" in caplog.messages[-1]
    assert "and there is no copy on this machine" in tries.refusal("hf:mine/bees")


def test_the_viewer_gets_records_with_their_pictures_and_a_card(tries, tmp_path):
    import datasets
    import yaml

    pinned(tries.publish())
    for name, content in tries.held().items():
        path = tmp_path / "dataset" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    card = tries.held()["README.md"].decode()
    about = yaml.safe_load(card.split("---\n")[1])
    pattern = about["configs"][0]["data_files"][0]["path"]
    rows = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "dataset" / pattern),
        split="train",
        cache_dir=str(tmp_path / "datasets"),
    )
    assert rows.features["image"] == datasets.Image()
    assert [row["image"].getpixel((0, 0)) for row in rows] == [(row, 0, 0) for row in range(5)]
    assert rows["caption"] == [record.caption for record in planted.records(5)]
    assert about["pretty_name"] == "birds" and about["size_categories"] == ["n<1K"]
    for said in (
        "| captions | captioner (`path:captioner`)",
        "CC BY 4.0: 2 pictures",
        "Not measured",
    ):
        assert said in card
    assert "https://example.org/1" in card and str(tries.folder) not in card


def test_what_is_not_as_it_was_published_is_refused_and_not_kept(tries, caplog):
    reference = pinned(tries.publish())
    whole = dict(tries.held())
    shard = "data-00000-of-00001.arrow"
    other_number = bytes([*whole["clip.npy"][:-1], 255 - whole["clip.npy"][-1]])
    for name, content, what in (
        ("clip.npy", other_number, "clip.npy is not the file that was built"),
        ("manifest.json", whole["manifest.json"].replace(b"birds", b"bards"), "manifest.json is"),
        (shard, whole[shard][:-9], f"{shard} is not the file that was built"),
    ):
        tries.held()[name] = content
        assert f"is not the gallery that was published: {what}" in tries.refusal(reference)
        tries.held()[name] = whole[name]
    assert len(tries.open(reference)) == 5
    copy = tries.cache / "hub" / "mine--birds" / reference[-40:] / "birds" / "clip.npy"
    copy.write_bytes(copy.read_bytes()[:-4] + b"\0\0\0\0")
    assert len(tries.open(reference)) == 5
    assert "It is fetched again." in caplog.text

    shutil.rmtree(tries.cache)
    other = planted.profile(tries.folder / "other models", clip_dim=7)
    assert "was built by other models: clip.dim is 6, but 7" in tries.refusal(reference, other)
    gone = tries.refusal("hf:mine/birds@v2")
    assert "There is no dataset mine/birds at v2 on the Hugging Face Hub" in gone


def test_what_publishing_meets_is_one_sentence(tries, hub):
    cases = {
        "You may not write to mine/birds.": {"HF_TOKEN": READER},
        "You may not write to yours/birds.": {"to": "yours/birds"},
        "HF_HUB_OFFLINE is set": {"HF_HUB_OFFLINE": "1"},
    }
    for said, how in cases.items():
        done = tries.publish(**how)
        assert said in sentence(done)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not hub.repositories
    pinned(tries.publish(to="mine/taken"))
    taken = hub.repositories["datasets/mine/taken"]
    taken.commit({".gitattributes": b"", "train.csv": b"a,b"})
    said = sentence(tries.publish(to="mine/taken"))
    assert "exists and holds no gallery: train.csv is in it. Choose another name" in said
    assert taken.files("main")[1]["train.csv"] == b"a,b"


def test_a_broken_upload_goes_on_and_a_file_that_changes_meanwhile_is_noticed(tries, hub):
    hub.puts_left = 3
    said = sentence(tries.publish())
    assert "could not be published" in said and said.endswith("Do it again.")
    arrived = len(hub.large)
    assert arrived == 3 and "clip.npy" not in tries.held()
    hub.puts_left = None
    put = []
    hub.when_put = lambda: put.append(1)
    first = pinned(tries.publish())
    assert len(put) == 8 - 3, "what had arrived is not sent again"
    assert pinned(tries.publish()) == first

    report = tries.gallery / "captions.npy"
    hub.when_asked = lambda: report.write_bytes(b"anything")
    (tries.gallery / "metrics.json").write_text("{}")
    hub.large.clear()
    hub.repositories.clear()
    assert "captions.npy changed while it was published." in sentence(tries.publish())
    assert "captions.npy is not the file that was built" in sentence(tries.publish())


def test_without_xet_storage_on_the_other_side_files_go_over_lfs(tries):
    assert pinned(tries.publish(HF_HUB_DISABLE_XET="0"))


def test_galleries_of_the_hub_stand_among_folders_in_the_setting(monkeypatch):
    listed = os.pathsep.join(["a/b", "hf:mine/birds@main", "hf:mine/bees", "/c/hf"])
    monkeypatch.setenv("TWOLENS_GALLERIES", listed)
    assert Settings().galleries == ("a/b", "hf:mine/birds@main", "hf:mine/bees", "/c/hf")
    assert Settings(galleries=(Path("a"),)).galleries == ("a",)
    assert [is_on_hub(each) for each in Settings().galleries] == [False, True, True, False]
    assert HubGallery.parse("hf:mine/birds@refs/pr/1") == HubGallery("mine", "birds", "refs/pr/1")
    for wrong in ("hf:birds", "hf:mine/birds/x", "hf:mine/../birds", "hf:mine/birds@", "hf:-/a"):
        with pytest.raises(HubError, match="names no gallery of the Hub"):
            HubGallery.parse(wrong)
