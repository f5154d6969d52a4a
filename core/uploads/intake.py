"""From waiting files to searchable pictures: decoding runs ahead while the models work."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.errors import DecodingStoppedError, ImageError
from core.gallery.copies import Copies, CopySizes
from core.images.decode import DecodedImage, decode

if TYPE_CHECKING:
    from PIL.Image import Image

    from core.describing import Described
    from core.uploads.session import UploadSession
    from core.uploads.waiting_file import WaitingFile

_NICENESS = 10
_PACE_S = 0.25
"""Least time between two reports; each one redraws a part of a visitor's page."""


@dataclass(frozen=True, slots=True)
class Intake:
    """How files become pictures.

    Attributes:
        describe: Captions and embeds a batch of RGB images.
        batch_size: Pictures a batch.
        decoders: Threads that decode.
        sizes: Of the copies that are kept.
    """

    describe: Callable[[Sequence[Image]], Described]
    batch_size: int = 8
    decoders: int = 2
    sizes: CopySizes = CopySizes()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        total: Files of this run; those that arrive meanwhile join it.
        settled: Of these, described, refused or found twice.
        described: Of these, described.
        decoded: Ids of pictures that have a thumbnail and no caption yet.
        elapsed_s: Seconds since the run began.
        finished: Nothing more will come.
        stopped: It ended before all files were settled.
    """

    total: int
    settled: int
    described: int
    decoded: tuple[str, ...]
    elapsed_s: float
    finished: bool = False
    stopped: bool = False

    @property
    def images_per_s(self) -> float:
        """Pictures described a second, 0.0 before the first."""
        return self.described / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds still needed at this pace; None before the first picture."""
        return (self.total - self.settled) / self.images_per_s if self.described else None


@dataclass(frozen=True, slots=True)
class _Ready:
    file: WaitingFile
    picture: DecodedImage


def run_intake(session: UploadSession, intake: Intake) -> Iterator[Progress]:
    """Describe a session's waiting files, batch by batch, and say how far it is.

    A stop, or closing the generator, keeps what is described and lets the other files wait again;
    a photo that is being decoded then is not waited for. The models run in the context of whoever
    asks for the next report: a rented GPU is charged to the visitor that it names.

    At most a few batches of decoded pictures are in memory, however many files there are.

    Raises:
        UploadError: The upload has ended, a run is under way, or the disk is full; all files that
            are not described wait again.
        ModelError: A model cannot be loaded; all files wait again.
    """
    session.begin()
    run = _Run(session, intake)
    try:
        yield from run.reports()
    finally:
        run.close()
        session.done()


def _yield_to_searches() -> None:
    """Lower this thread's priority, which the model's own threads inherit."""
    if sys.platform != "linux":
        return  # elsewhere a priority belongs to a process, not to a thread
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


class _Run:
    """One pass over the waiting files; used by one thread."""

    def __init__(self, session: UploadSession, intake: Intake) -> None:
        self.session = session
        self.intake = intake
        self.settled = 0
        self.described = 0
        self.started = time.monotonic()
        self.decoding: deque[tuple[WaitingFile, Future[tuple[DecodedImage, Copies]]]] = deque()
        self.ready: deque[_Ready] = deque()
        self.batch: list[_Ready] = []
        self.describing: Future[Described] | None = None
        self.pool = ThreadPoolExecutor(intake.decoders, "decode", _yield_to_searches)
        self.model_thread = ThreadPoolExecutor(1, "describe", _yield_to_searches)

    def reports(self) -> Iterator[Progress]:
        yield self.progress()
        reported = time.monotonic()
        while self.step():
            if time.monotonic() - reported >= _PACE_S:
                reported = time.monotonic()
                yield self.progress()
        self.put_back()
        yield self.progress(finished=True)

    def step(self) -> bool:
        """Move everything on as far as it goes, then wait for news; False at the end."""
        if self.session.ended:
            return False
        self.collect_described()
        stopping = self.session.stop_asked.is_set()
        if not stopping:
            self.start_decoding()
            self.collect_decoded()
            self.start_describing()
        pending = [future for _, future in self.decoding]
        if self.describing is None and (stopping or not pending):
            return False
        awaited: list[Future] = [] if stopping else pending[:1]
        if self.describing is not None:
            awaited.append(self.describing)
        wait(awaited, timeout=_PACE_S, return_when=FIRST_COMPLETED)
        return True

    def start_decoding(self) -> None:
        ahead = 3 * self.intake.batch_size
        while len(self.decoding) + len(self.ready) < ahead:
            file = self.session.next_file()
            if file is None:
                return
            self.decoding.append((file, self.pool.submit(self._decode, file)))

    def _decode(self, file: WaitingFile) -> tuple[DecodedImage, Copies]:
        if self.session.stop_asked.is_set():
            raise CancelledError
        limits, stop = self.session.limits.decode, self.session.stop_asked
        picture = decode(file.path, file.file_name, limits, stop=stop)
        sizes = self.intake.sizes
        return picture, Copies.of(file.path, file.file_name, limits, picture, sizes, stop)

    def collect_decoded(self) -> None:
        while self.decoding and self.decoding[0][1].done():
            # Taken away only once it is settled: after an error it waits again.
            file, future = self.decoding[0]
            try:
                picture, copies = future.result()
                admitted = self.session.admit(file, picture, copies) is not None
            except (CancelledError, DecodingStoppedError):
                return
            except ImageError as error:
                self.session.turn_away(file, error.reason)
                admitted = False
            self.decoding.popleft()
            if admitted:
                self.ready.append(_Ready(file, picture))
            else:
                self.settled += 1

    def start_describing(self) -> None:
        full = len(self.ready) >= self.intake.batch_size
        if self.describing is not None or not self.ready or (self.decoding and not full):
            return
        size = min(len(self.ready), self.intake.batch_size)
        self.batch = [self.ready.popleft() for _ in range(size)]
        images = [item.picture.image for item in self.batch]
        self.describing = self.model_thread.submit(copy_context().run, self.intake.describe, images)

    def collect_described(self) -> None:
        if self.describing is None or not self.describing.done():
            return
        described = self.describing.result()
        self.describing = None
        batch, self.batch = self.batch, []
        self.session.add([i.file for i in batch], [i.picture for i in batch], described)
        self.described += len(batch)
        self.settled += len(batch)

    def put_back(self) -> None:
        """Let files that were taken and not described wait again."""
        admitted = [*self.batch, *self.ready]
        files = [item.file for item in admitted] + [file for file, _ in self.decoding]
        for _, future in self.decoding:
            future.cancel()
        self.session.put_back(files, [item.picture.id for item in admitted])
        self.batch, self.describing = [], None
        self.ready.clear()
        self.decoding.clear()

    def progress(self, *, finished: bool = False) -> Progress:
        in_hand = [*self.batch, *self.ready]
        left = len(self.session.waiting) + len(self.decoding) + len(in_hand)
        return Progress(
            total=self.settled + left,
            settled=self.settled,
            described=self.described,
            decoded=tuple(item.picture.id for item in in_hand),
            elapsed_s=time.monotonic() - self.started,
            finished=finished,
            stopped=finished and left > 0,
        )

    def close(self) -> None:
        # A batch that is under way when the visitor leaves ends unseen, its files wait again.
        self.put_back()
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.model_thread.shutdown(wait=False, cancel_futures=True)
