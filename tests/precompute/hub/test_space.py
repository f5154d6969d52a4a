"""``publish space``: which files, which requirements, and what the Hub says."""

from __future__ import annotations

import ast
import re

import pytest

from precompute.hub.space_files import (
    Space,
    hub_models,
    preload_lines,
    requirements_for,
    stage_space,
)
from tests.hub_client import Client, publish_shapes
from tests.local_hub import READER, ROOT, Repository, local_hub

PIN = re.compile(r"^([\w.-]+(?:\[[\w,]+\])?)==(\S+)$", re.M)
GALLERY = "hf:mine/shapes"


@pytest.fixture
def hub():
    with local_hub() as running:
        yield running


@pytest.fixture
def publish(hub, tmp_path):
    def publish(*arguments: object, **environment: str):
        return Client(hub, tmp_path / "home").precompute("publish", *arguments, **environment)

    return publish


def test_what_the_hub_says_of_a_space_that_fails_is_shown(publish, hub):
    def committed(key: str) -> None:
        hub.repositories[key].stages = ["BUILDING", "BUILD_ERROR"]
        hub.repositories[key].logs = [f"line {number}\n" for number in range(40)]

    hub.when_committed = committed
    old = hub.repositories["spaces/mine/demo"] = Repository(False)
    old.commit({"core/ui/page.py": b"of before", "gone.py": b""})
    old.variables = {"TWOLENS_GALLERIES": "hf:mine/old", "MINE": "1"}
    done = publish("space", "mine/demo", "--hardware", "cpu", "--private")
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert lines[-2] == "line 39" and "line 10" not in lines
    assert "is in the stage BUILD_ERROR; the last lines of its build log are above" in lines[-1]
    assert old.variables == {"TWOLENS_PROFILE": "mini", "MINE": "1"} and old.hardware == "cpu-basic"
    assert "gone.py" not in old.files("main")[1] and "app.py" in old.files("main")[1]

    hub.repositories["spaces/mine/demo"].commits.append(("0" * 40, {"index.html": b""}))
    assert "holds no TwoLens: index.html is in it" in publish("space", "mine/demo").stderr
    assert "You may not write to mine/x." in publish("space", "mine/x", HF_TOKEN=READER).stderr


def test_a_dry_run_lists_every_file_with_its_size_and_asks_nobody(publish, hub):
    done = publish("space", "mine/demo", "--dry-run", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    *lines, profile, total = done.stdout.splitlines()
    sizes = {name: int(size.replace(",", "")) for size, name in map(str.split, lines)}
    assert sizes["app.py"] == (ROOT / "app.py").stat().st_size
    assert profile == "TWOLENS_PROFILE=mini"
    assert total.startswith(f"{len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB, would be")
    assert hub.asked == []
    for said, arguments in {
        "There is no hardware 'fast'": ["--hardware", "fast"],
        "First: python -m precompute publish gallery galleries/mine": [
            "--gallery",
            "galleries/mine",
        ],
        "give it by --gallery hf:OWNER/NAME": ["--profile", "full"],
    }.items():
        refused = publish("space", "mine/demo", "--dry-run", *arguments)
        assert refused.returncode == 2 and said in refused.stderr


def test_a_gallery_of_other_models_is_noticed_before_anything_is_published(publish, hub, tmp_path):
    shapes = publish_shapes(hub, tmp_path)
    asked = ["space", "mine/demo", "--gallery", f"{GALLERY}@{shapes}", "--profile", "full"]
    assert "was built by the profile mini; give --profile mini." in publish(*asked).stderr
    assert "spaces/mine/demo" not in hub.repositories


@pytest.mark.parametrize(
    ("hardware", "kind"), [("zero-a10g", "zero"), ("cpu-basic", "cpu"), ("l4x1", "gpu")]
)
def test_requirements_are_the_pins_of_this_checkout_but_for_torch_and_spaces(hardware, kind):
    pins = dict(PIN.findall((ROOT / "requirements.txt").read_text()))
    made = requirements_for(Space("mini", hardware))
    other = {name: version for name, version in PIN.findall(made) if pins.get(name) != version}
    zero = {"torch": "2.11.0", "torchvision": "0.26.0", "spaces": "0.51.3"}
    assert Space("mini", hardware).kind == kind
    assert other == (zero if kind == "zero" else {})
    assert pins.keys() <= dict(PIN.findall(made)).keys()
    assert made.startswith("--extra-index-url https://download.pytorch.org/whl/cpu\n") == (
        kind == "cpu"
    )


def test_with_a_gallery_nothing_goes_along_that_would_build_one(tmp_path):
    bare, served = Space("mini", "zero-a10g"), Space("mini", "zero-a10g", ("hf:mine/a@b",))
    for name, space in {"bare": bare, "served": served}.items():
        stage_space(space, tmp_path / name)
    assert (tmp_path / "bare/precompute/build/sample_gallery.py").is_file()
    written = "precompute/evaluate/written_queries/sample-photos"
    assert {path.suffix for path in tmp_path.glob(f"bare/{written}.*")} == {".tsv", ".qrels"}
    assert not (tmp_path / "served/precompute").exists()
    left_out = (
        dict(PIN.findall(requirements_for(bare))).keys()
        - dict(PIN.findall(requirements_for(served))).keys()
    )
    assert {"scikit-image", "mvtb-data", "sacrebleu"} <= left_out
    modules = {"PyStemmer": "Stemmer", "scikit-image": "skimage", "scikit-learn": "sklearn"}
    unused = {modules.get(name, name.replace("-", "_")) for name in left_out}
    for path in [ROOT / "app.py", *(ROOT / "core").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not unused & {name.partition(".")[0] for name in names}, path


def test_models_are_preloaded_by_the_files_that_are_read():
    space = Space("full", "zero-a10g", ("hf:mine/a@b",))
    there = ["README.md", "model.safetensors", "pytorch_model.bin", "onnx/config.json", "vocab.txt"]
    lines = preload_lines(space, {spec.source[4:]: there for spec in hub_models(space)})
    assert [line.split()[1] for line in lines] == 3 * ["model.safetensors,vocab.txt"]
    assert all(re.fullmatch("[0-9a-f]{40}", line.split()[2]) for line in lines)
    assert len(hub_models(Space("full", "cpu-basic"))) == 2, (
        "uploads have the small captioner there"
    )
    assert hub_models(Space("mini", "zero-a10g")) == []
