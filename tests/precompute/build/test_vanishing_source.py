"""A source that cannot be read any more in the middle of a build: nothing is replaced or lost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import SourceError
from precompute.build.workspace import Workspace
from tests.precompute.build.builds import build, options, photos, rows
from tests.precompute.conftest import noise_photo

COUNT = 30


@pytest.fixture
def after_first_shard(monkeypatch):
    """Let something happen once the first shard is on disk."""

    def arrange(happens: Callable[[], object]) -> None:
        genuine = Workspace.write_shard

        def write(self, number, *rest):
            genuine(self, number, *rest)
            if number == 0:
                happens()

        monkeypatch.setattr(Workspace, "write_shard", write)

    yield arrange
    monkeypatch.undo()


def _folder(place: Path) -> Path:
    return photos(place / "in", COUNT)


def _parquet_files(place: Path) -> Path:
    (place / "in").mkdir()
    for part in range(5):
        cells = [{"bytes": noise_photo(i), "path": None} for i in range(6 * part, 6 * part + 6)]
        pq.write_table(pa.table({"image": cells}), place / "in" / f"part-{part}.parquet")
    return place / "in"


def _paths_in_rows(place: Path) -> Path:
    paths = [str(path) for path in sorted(photos(place / "in", COUNT).iterdir())]
    pq.write_table(pa.table({"image": paths}), place / "rows.parquet")
    return place / "rows.parquet"


@pytest.mark.parametrize("make", [_folder, _parquet_files, _paths_in_rows])
def test_it_stops_the_build_and_the_same_command_goes_on(
    make, after_first_shard, monkeypatch, tiny, tmp_path
):
    source, out = make(tmp_path), tmp_path / "g"
    build(options(photos(tmp_path / "old", 4, first=90), out, tiny))
    before = rows(out)
    after_first_shard(lambda: (tmp_path / "in").rename(tmp_path / "unplugged"))
    told = r"(can no longer|could not) be read.*(No such|exist)"
    with pytest.raises(SourceError, match=told) as raised:
        build(options(source, out, tiny, overwrite=True))
    assert "There is no folder" not in str(raised.value)
    assert rows(out) == before
    monkeypatch.undo()
    (tmp_path / "unplugged").rename(tmp_path / "in")
    result = build(options(source, out, tiny, overwrite=True))
    assert result.resumed_rows >= 5
    assert (result.images, result.skipped, len(rows(out))) == (COUNT, (), COUNT)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_error_of_the_disk_stops_the_build_and_a_bad_picture_does_not(tiny, tmp_path):
    source, out = photos(tmp_path / "in", 12), tmp_path / "g"
    (source / "003.png").write_bytes(b"no picture")
    unreadable = source / "011 on a bad sector.png"
    # A regular file by its kind, whose first byte no process may read.
    unreadable.symlink_to("/proc/self/mem")
    with pytest.raises(SourceError, match=r"bad sector.png can no longer be read \(Input/output"):
        build(options(source, out, tiny, batch_size=1))
    assert not out.exists()
    unreadable.unlink()
    result = build(options(source, out, tiny, batch_size=1))
    assert (result.images, [item.file_name for item in result.skipped]) == (11, ["003.png"])
