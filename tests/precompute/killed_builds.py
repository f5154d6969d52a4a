"""Builds that are disturbed: run as a program, so that its children start from imported libraries.

Each attempt is a process of its own. After a random time it is ended by SIGKILL or SIGTERM, or a
process that decodes for it is killed; or at its n-th change of the file system below the gallery's
parent it is killed, the disk is full, or the source has gone. Prints one line a round.

Models are planted ones: an attempt takes half a second. For many disturbances::

    python -m tests.precompute.killed_builds WORK ROUNDS SEED
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from core.images.sandbox.decoder_pool import close_decoders
from precompute.build.pipeline import BuildOptions, build
from precompute.sources.types import SourceOptions
from tests.precompute.conftest import noise_photo
from tests.precompute.planted_models import PROFILE, planted_models

HOW = ("kill", "kill", "terminate", "decoder", "full", "vanish")
"""Ways to disturb a build, of which one is drawn for every attempt."""

CHANGES = {"os.rename": b"n", "os.remove": b"d", "os.rmdir": b"d", "os.mkdir": b"m"}
"""Audit events that change the file system, and the letter that tells of each."""

SAME_BYTES = ("data-00000-of-00001.arrow", "captions.npy", "clip.npy", "captions.ivf.faiss")


class Trial:
    """One source and one place to build it in."""

    def __init__(self, source: Path, work: Path) -> None:
        self.profile = PROFILE
        self.source = source
        self.work = work
        self.whole = work / "whole"
        self.partly = work.with_name(f"{work.name} partly")

    def options(self, out: Path, source: Path | None = None, overwrite: bool = False):
        return BuildOptions(
            source=SourceOptions(str(source or self.source)),
            out=out,
            profile=self.profile,
            batch_size=2,
            shard_size=4,
            device="cpu",
            overwrite=overwrite,
            progress=False,
        )

    def attempt(
        self,
        options: BuildOptions,
        *,
        how: str = "kill",
        after_s: float | None = None,
        at_change: int | None = None,
        at_name: str = "\0",
    ) -> tuple[int, bytes]:
        """Build in a child; return its exit status (-9 if killed) and a letter for each change."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(self._child(options, writer, how, at_change, at_name))
        os.close(writer)
        if after_s is not None:
            time.sleep(after_s)
            disturb(child, how)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if self.gone.exists():
            self.gone.rename(self.source)
        with os.fdopen(reader, "rb") as file:
            return status, file.read()

    @property
    def gone(self) -> Path:
        return self.source.with_name("gone")

    def _child(
        self, options: BuildOptions, writer: int, how: str, at_change: int | None, at_name: str
    ) -> int:
        count = 0

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, interrupt)  # as the command line does

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            writing = event == "open" and "w" in str(arguments[1])
            if (writing or event in CHANGES) and str(self.work) in str(arguments[0]):
                count += 1
                if count == at_change and how == "full":
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if count == at_change and how == "vanish":
                    os.rename(self.source, self.gone)
                elif count == at_change or at_name in str(arguments[0]):
                    os.kill(os.getpid(), signal.SIGKILL)
                os.write(writer, CHANGES.get(event, b"w"))

        sys.addaudithook(watch)
        try:
            build(options, models=planted_models())
        except BaseException as error:
            if how in ("kill", "decoder"):
                sys.stderr.write(f"{error!r}\n")
            return 1
        return 0

    def check_same(self, out: Path) -> None:
        for name in SAME_BYTES:
            assert (out / name).read_bytes() == (self.whole / name).read_bytes(), name
        hidden = [path.name for path in self.work.iterdir() if path.name.startswith(".")]
        assert not hidden, hidden


def new_galleries(
    trial: Trial, rounds: int, changes: int, seconds: float, dice: random.Random
) -> None:
    """Disturb builds of a new gallery, each up to two times, and of one that is updated."""
    told: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    for number in range(rounds):
        out = trial.work / f"round{number}"
        options = trial.options(out)
        if number % 4 == 3:  # it begins with what there was before: some of the same photos
            shutil.copytree(trial.partly, out)
        disturbed = 0
        # A gallery that is in place without a trace of the build is finished: no second attempt.
        while disturbed < 2 and not (is_whole(trial, out) and not is_left(out)):
            how = dice.choice(HOW)
            place: dict[str, Any] = {"at_change": dice.randint(1, changes)}
            if how in ("terminate", "decoder") or (how == "kill" and dice.random() < 0.5):
                place = {"after_s": dice.uniform(0, seconds)}
            status = trial.attempt(options, how=how, **place)[0]
            assert not out.exists() or (out / "manifest.json").is_file()
            told[how] += 1
            if status == 0:
                survived[how] += 1
                break
            disturbed += 1
        if not is_whole(trial, out) or is_left(out):
            assert trial.attempt(options)[0] == 0
        trial.check_same(out)
        shutil.rmtree(out)
        tell(f"new {number}: killed {disturbed} times")
    counts = [f"{how} {count - survived[how]} of {count}" for how, count in sorted(told.items())]
    tell(f"disturbed {told.total()} times, ended early: {', '.join(counts)}")


def disturb(child: int, how: str) -> None:
    if how == "terminate":
        os.kill(child, signal.SIGTERM)
    elif how == "decoder":
        decoders = Path(f"/proc/{child}/task/{child}/children").read_text().split()
        others = [
            Path(f"/proc/{child}/task/{task}/children")
            for task in os.listdir(f"/proc/{child}/task")
        ]
        decoders += [pid for path in others for pid in path.read_text().split()]
        for pid in decoders[:1]:
            os.kill(int(pid), signal.SIGKILL)
    else:
        os.kill(child, signal.SIGKILL)


def is_whole(trial: Trial, out: Path) -> bool:
    """Whether the gallery in place is the one that is built."""
    return (
        out.exists() and (out / "clip.npy").read_bytes() == (trial.whole / "clip.npy").read_bytes()
    )


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def building(out: Path) -> Path:
    return out.with_name(f".{out.name}.building")


def is_left(out: Path) -> bool:
    """Whether a build has left a trace beside its gallery."""
    return building(out).exists() or out.with_name(f".{out.name}.finished").exists()


def replaced_galleries(trial: Trial, old: Path, dice: random.Random) -> int:
    """Kill the end of a build that replaces a gallery, at and around each of its renames."""
    out = trial.work / "replaced"
    options = trial.options(out, overwrite=True)
    shutil.copytree(old, out)
    assert trial.attempt(options, at_name="build_report.json")[0] == -signal.SIGKILL
    all_shards = trial.work.with_name(f"{trial.work.name} shards")
    shutil.copytree(building(out), all_shards)
    status, changes = trial.attempt(options)
    assert status == 0
    trial.check_same(out)
    move_out = changes.rindex(b"n") + 1  # of what is left of the build
    move_in = changes.rindex(b"n", 0, move_out - 1) + 1
    move_aside = changes.rindex(b"n", 0, move_in - 1) + 1
    places = {move_aside, move_in, move_in + 1, move_out, move_out + 1, len(changes)}
    places |= set(dice.sample(range(1, len(changes) + 1), 4))
    ends: set[str] = set()
    for place in sorted(places):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(old, out)
        shutil.copytree(all_shards, building(out))
        assert trial.attempt(options, at_change=place)[0] == -signal.SIGKILL
        aside = out.with_name(f".{out.name}.replaced")
        held = out if out.exists() else aside
        content = (held / "clip.npy").read_bytes()
        is_new = content == (trial.whole / "clip.npy").read_bytes()
        assert is_new or content == (old / "clip.npy").read_bytes()
        ends.add("aside" if held == aside else "new" if is_new else "old")
        if is_left(out) or not is_new:
            assert trial.attempt(options)[0] == 0
        trial.check_same(out)
    assert ends == {"old", "aside", "new"}, ends
    return len(places)


def sources(folder: Path) -> tuple[Path, Path]:
    """Make a source with pictures that come twice and a file that is none, and another one."""
    source, old = folder / "photos", folder / "old photos"
    source.mkdir(parents=True)
    old.mkdir()
    for i in range(14):
        (source / f"{i:02d}.png").write_bytes(noise_photo(i % 12))
    (source / "05b.jpg").write_bytes(b"\xff\xd8\xff broken")
    for i in range(3):
        (old / f"{i}.png").write_bytes(noise_photo(50 + i))
    return source, old


def main() -> None:
    folder, rounds, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    source, old_source = sources(folder)
    work = folder / "work"
    work.mkdir()
    trial = Trial(source, work)
    # What it imports, the children need not: an attempt is then the build alone.
    build(trial.options(folder / "first"), models=planted_models())
    close_decoders()
    started = time.perf_counter()
    status, changes = trial.attempt(trial.options(trial.whole))
    seconds = time.perf_counter() - started
    assert status == 0
    tell(f"whole: {seconds:.1f} s, {len(changes)} changes")
    dice = random.Random(seed)
    held_back = sorted(source.iterdir())[-3:]
    for path in held_back:
        path.rename(folder / path.name)
    assert trial.attempt(trial.options(trial.partly))[0] == 0
    for path in held_back:
        (folder / path.name).rename(path)
    new_galleries(trial, rounds, len(changes), seconds, dice)
    old = work.with_name(f"{work.name} old")
    assert trial.attempt(trial.options(old, old_source))[0] == 0
    places = replaced_galleries(trial, old, dice)
    tell(f"replaced: killed at {places} places")


if __name__ == "__main__":
    main()
