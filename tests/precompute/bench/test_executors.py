"""What spreading a build costs: the arithmetic, and that bytes are compared; builds are planted."""

from __future__ import annotations

import json

import pytest

from core.errors import GalleryError
from precompute.bench import executors as bench


def planted(broken: str = ""):
    """Return a build that takes 10 s, and 1 s of CPU a picture, twice that by ranks."""

    def build(executor, source, count, name, out, threads=None):
        out.mkdir()
        own = threads or bench.WAYS[executor][1]
        (out / "records").write_text(f"{own} threads{'!' * (executor == broken)}")
        (out / "manifest.json").write_text(json.dumps({"files": {"records": {}}}))
        each = 2.0 if executor == "accelerate" else 1.0
        return bench.Cost(10 + each * count, 10 + each * count / 2)

    return build


def test_starting_is_told_from_each_further_picture():
    said: list[str] = []
    found = bench.executors("photos", 48, "mini", said.append, planted())
    values = {figure["name"]: figure["value"] for figure in found["figures"]}
    assert values["local: CPU of 48 pictures"] == 58
    assert values["local: CPU of start"] == pytest.approx(10)
    assert values["ray: CPU of a further picture"] == 1
    assert values["accelerate: CPU of 48 pictures, more than local"] == pytest.approx(106 / 58 - 1)
    assert values["accelerate: CPU of further pictures, more than local"] == pytest.approx(1)
    assert values["ray: time of further pictures, more than local"] == pytest.approx(0)
    assert values["accelerate: time of 1,000 pictures, computed"] == pytest.approx(1010)
    many = values["accelerate: time of 1,000 pictures, computed, more than local"]
    assert many == pytest.approx(1010 / 510 - 1)
    assert said[-1] == "One thread and two make other bytes of: records."


def test_other_bytes_than_those_of_one_process_end_it():
    with pytest.raises(GalleryError, match="accelerate made other bytes of records"):
        bench.executors("photos", 48, "mini", print, planted(broken="accelerate"))
