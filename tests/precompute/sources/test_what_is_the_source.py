"""What counts as the source: photos, a dataset's files, links, and what systems leave behind."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import SourceError
from precompute.sources.open import open_kept_source, open_source
from precompute.sources.types import SourceImage, SourceOptions
from tests.precompute.conftest import noise_photo


def opened(source: Path | str, **changes):
    return open_source(SourceOptions(str(source), **changes))


def read(source: Path | str, **changes) -> list[SourceImage]:
    return list(opened(source, **changes).read(0))


def taken(source: Path | str, **changes) -> list[str]:
    return [row.file_name for row in read(source, **changes) if row.content is not None]


def problems(source: Path | str) -> dict[str, str]:
    return {row.file_name: row.problem for row in read(source) if row.problem}


def put(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(noise_photo(seed))


def rows_with_photos(path: Path, seeds: range, column: str = "image") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": noise_photo(i), "path": f"{i}.png"} for i in seeds]
    pq.write_table(pa.table({column: cells, "text": [f"t{i}" for i in seeds]}), path)


def webdataset(path: Path, seeds: range) -> None:
    with tarfile.open(path, "w") as archive:
        for i in seeds:
            for suffix, content in (
                ("jpg", noise_photo(i, kind="JPEG")),
                ("json", json.dumps({"caption": f"c{i}", "key": f"{i:09}"}).encode()),
                ("txt", f"c{i}".encode()),
            ):
                entry = tarfile.TarInfo(f"{i:09}.{suffix}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


class TestDatasetFiles:
    def test_img2dataset_s_folders_are_photos(self, tmp_path):
        put(tmp_path / "00000" / "000000001.jpg", 1)
        (tmp_path / "00000" / "000000001.txt").write_text("a dog")
        table = pa.table({"url": ["http://x/1"], "caption": ["a dog"], "key": ["000000001"]})
        pq.write_table(table, tmp_path / "00000.parquet")
        (tmp_path / "00000_stats.json").write_text("{}")
        assert opened(tmp_path).kind == "folder"
        assert "00000/000000001.jpg" in taken(tmp_path)

    def test_img2dataset_s_archives_are_rows(self, tmp_path):
        for shard in range(2):
            webdataset(tmp_path / f"{shard:05}.tar", range(3 * shard, 3 * shard + 3))
            table = pa.table({"url": ["http://x/1"], "caption": ["a dog"], "key": ["0"]})
            pq.write_table(table, tmp_path / f"{shard:05}.parquet")
            (tmp_path / f"{shard:05}_stats.json").write_text("{}")
        rows = read(tmp_path)
        assert opened(tmp_path).kind == "dataset"
        assert [row.content for row in rows] == [noise_photo(i, kind="JPEG") for i in range(6)]
        assert read(tmp_path / "00001.tar")[0].content == noise_photo(3, kind="JPEG")

    def test_img2dataset_s_parquet_files_are_rows(self, tmp_path):
        for shard in range(2):
            table = pa.table({"key": [f"{shard}"], "jpg": [noise_photo(shard)], "caption": ["c"]})
            pq.write_table(table, tmp_path / f"{shard:05}.parquet")
            (tmp_path / f"{shard:05}_stats.json").write_text("{}")
        assert [row.content for row in read(tmp_path)] == [noise_photo(0), noise_photo(1)]

    @pytest.mark.parametrize("name", ["notes.parquet", "train/embeddings.parquet"])
    def test_a_table_beside_photos_is_no_source(self, name, tmp_path):
        put(tmp_path / "photos" / "a.png")
        (tmp_path / "train").mkdir()
        pq.write_table(pa.table({"image": ["a.png"], "note": ["x"]}), tmp_path / name)
        assert opened(tmp_path).kind == "folder"
        assert "photos/a.png" in taken(tmp_path)

    def test_a_clone_s_banner_is_no_photo(self, tmp_path):
        put(tmp_path / "assets" / "banner.png")
        (tmp_path / "README.md").write_text("card")
        rows_with_photos(tmp_path / "train" / "0000.parquet", range(2))
        rows_with_photos(tmp_path / "test" / "0000.parquet", range(2, 5))
        with pytest.raises(SourceError, match="choose by --split: train, test"):
            opened(tmp_path)
        assert taken(tmp_path, split="test") == ["2.png", "3.png", "4.png"]

    def test_other_tables_and_bins_beside_the_rows_are_left_out(self, tmp_path):
        rows_with_photos(tmp_path / "data [2]" / "rows.parquet", range(2))
        rows_with_photos(tmp_path / "#recycle" / "old.parquet", range(5, 9))
        pq.write_table(pa.table({"vector": [[0.5]]}), tmp_path / "embeddings.parquet")
        (tmp_path / "info.json").write_text("{}")
        assert taken(tmp_path) == ["0.png", "1.png"]
        assert taken(tmp_path / "data [2]") == ["0.png", "1.png"]

    def test_each_picture_of_a_list_is_taken_from_any_start(self, tmp_path):
        cells = [
            [{"bytes": noise_photo(i), "path": None} for i in row] for row in ([0, 1], [], [2])
        ]
        path = tmp_path / "lists.parquet"
        pq.write_table(pa.table({"images": cells, "text": ["a", "b", "c"]}), path)
        rows = read(path)
        assert [row.content for row in rows] == [
            *(noise_photo(0), noise_photo(1), None),
            noise_photo(2),
        ]
        assert rows[2].problem == "has no image in its row"
        assert [row.references for row in rows] == [("a",), ("a",), ("b",), ("c",)]
        assert [row.file_name for row in rows][:2] == ["row-000000-0", "row-000000-1"]
        assert list(opened(path).read(1)) == rows[1:]
        assert list(opened(path, limit=3).read(1)) == rows[1:3]

    def test_lists_of_declared_images(self, tmp_path):
        kind = datasets.Features({"images": datasets.List(datasets.Image())})
        cells = [
            [{"bytes": noise_photo(i), "path": f"{i}.png"} for i in row] for row in ([0, 1], [2])
        ]
        rows = datasets.Dataset.from_dict({"images": cells}, features=kind)
        rows.save_to_disk(tmp_path / "saved")
        rows.to_parquet(tmp_path / "rows.parquet")
        for place in ("saved", "rows.parquet"):
            assert taken(tmp_path / place) == ["0.png", "1.png", "2.png"]
        kept = open_kept_source(SourceOptions(str(tmp_path / "saved")))
        assert len(list(kept.read(0))) == 3
        assert [kept.content(row) for row in range(3)] == [noise_photo(i) for i in range(3)]

    def test_a_clone_without_its_large_files(self, tmp_path):
        (tmp_path / "data").mkdir()
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        (tmp_path / "data" / "train-0.parquet").write_text(pointer)
        with pytest.raises(SourceError, match="pointer of Git LFS.*git lfs pull"):
            opened(tmp_path)

    def test_a_card_s_configurations_are_to_be_chosen_from(self, tmp_path):
        rows_with_photos(tmp_path / "en" / "a.parquet", range(2))
        rows_with_photos(tmp_path / "de" / "b.parquet", range(3))
        (tmp_path / "README.md").write_text(
            "---\nconfigs:\n- config_name: en\n  data_files: en/*.parquet\n"
            "- config_name: de\n  data_files: de/*.parquet\n---\ncard"
        )
        with pytest.raises(SourceError, match="several configurations.*--subset: en, de"):
            opened(tmp_path)
        assert taken(tmp_path, subset="de") == ["0.png", "1.png", "2.png"]

    def test_what_is_no_archive(self, tmp_path):
        (tmp_path / "0.tar").write_bytes(b"not a tar" * 100)
        with pytest.raises(SourceError, match="could not be read"):
            opened(tmp_path)

    def test_a_path_in_a_row_begins_at_the_dataset(self, tmp_path):
        put(tmp_path / "set" / "img" / "a.png", 4)
        path = tmp_path / "set" / "rows.parquet"
        names = ["img/a.png", "img\\a.png", "img/absent.png", "img/dangling.png"]
        (tmp_path / "set" / "img" / "dangling.png").symlink_to("absent.png")
        pq.write_table(pa.table({"image": names}), path)
        there, windows, absent, dangling = read(path)
        assert dangling.problem == absent.problem
        assert there.content == windows.content == tmp_path / "set" / "img" / "a.png"
        assert (absent.content, absent.problem) == (None, "is named in its row but does not exist")


class TestFolders:
    def test_what_systems_leave_is_passed_over(self, tmp_path):
        put(tmp_path / "a" / "photo.jpg")
        for name in (
            *("@eaDir/photo.jpg/SYNOPHOTO_THUMB_M.jpg", "a/@eaDir/x.jpg", "#recycle/old.jpg"),
            *("._photo.jpg", "a/._photo.jpg", ".DS_Store", "a/Thumbs.db", "desktop.ini"),
            *("lost+found/x.jpg", "__MACOSX/a/._photo.jpg", "$RECYCLE.BIN/x.jpg", "Icon\r"),
            *(".AppleDouble/photo.jpg", "@Recycle/x.jpg", "System Volume Information/x"),
            *("a/@__thumb/photo.jpg", "LOST.DIR/x.jpg", "RECYCLER/x.jpg", "FOUND.000/x.jpg"),
        ):
            put(tmp_path / name, 1)
        assert [row.file_name for row in read(tmp_path)] == ["a/photo.jpg"]

    def test_linked_folders_are_read_once(self, tmp_path):
        put(tmp_path / "elsewhere" / "b.png", 1)
        put(tmp_path / "elsewhere" / "deep" / "c.png", 2)
        put(tmp_path / "photos" / "z real" / "a.png", 0)
        source = tmp_path / "photos"
        (source / "a link inside").symlink_to("z real")
        (source / "b link outside").symlink_to(tmp_path / "elsewhere")
        (source / "c again").symlink_to(tmp_path / "elsewhere" / "deep")
        (source / "d up").symlink_to(tmp_path)
        (source / "z real" / "round").symlink_to(source)
        (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
        (source / "gone").symlink_to(tmp_path / "absent")
        (source / "self").symlink_to("self")
        assert taken(source) == [
            *("b link outside/b.png", "b link outside/deep/c.png", "z real/a.png"),
        ]
        again = "is a link to a folder that is read already"
        assert problems(source) == {
            "a link inside": again,
            "b link outside/back": again,
            "c again": again,
            "d up": "is a link to a folder that holds this source",
            "gone": "cannot be read (No such file or directory)",
            "self": "cannot be read (Too many levels of symbolic links)",
            "z real/round": again,
        }

    def test_a_linked_folder_that_holds_one_that_was_read(self, tmp_path):
        put(tmp_path / "outer" / "inner" / "a.png")
        put(tmp_path / "outer" / "b.png", 1)
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "1").symlink_to(tmp_path / "outer" / "inner")
        (tmp_path / "photos" / "2").symlink_to(tmp_path / "outer")
        assert taken(tmp_path / "photos") == ["1/a.png", "2/b.png"]
        assert problems(tmp_path / "photos") == {"2/inner": "is a folder that is read already"}

    def test_a_folder_reached_through_a_link_reads_as_itself(self, tmp_path):
        put(tmp_path / "photos" / "a.png")
        (tmp_path / "link").symlink_to("photos")
        assert taken(tmp_path / "link") == ["a.png"]

    def test_what_is_no_regular_file_is_said_and_never_opened(self, tmp_path):
        put(tmp_path / "a.png")
        os.mkfifo(tmp_path / "pipe.jpg")
        assert problems(tmp_path) == {"pipe.jpg": "is not a regular file"}
