"""Decoding where it can be stopped: limits of time and memory, death of either side."""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from PIL import Image

from core.errors import DecodingStoppedError
from core.images.decode import DecodeLimits, decode
from core.images.recognise import RefusedError
from core.images.sandbox.decoder_pool import DecoderPool
from core.images.sandbox.memory_budget import MemoryBudget
from tests.core.encoded_pictures import LIMITS, encoded, refusal, slow_bmp, two_halves
from tests.core.images.test_colour import chunk

LARGE = DecodeLimits(50_000_000, 100_000_000)
GOOD = encoded(two_halves(), "JPEG")


@pytest.fixture
def pool():
    made = DecoderPool(2, 3_000_000_000)
    yield made
    made.close()


def processes(pool: DecoderPool) -> list[psutil.Process]:
    return [psutil.Process(process.pid) for process in pool.processes()]


def test_a_picture_that_takes_too_long_is_refused_and_the_next_one_is_decoded(pool):
    limits = DecodeLimits(50_000_000, 100_000_000, max_seconds=1)
    started = time.monotonic()
    with pytest.raises(RefusedError) as caught:
        pool.decode(slow_bmp(), limits, 640)
    assert caught.value.reason == "takes longer to decode than the limit of 1 s"
    assert time.monotonic() - started < 30
    assert pool.decode(GOOD, LIMITS, 640).width == 64


def test_a_process_that_is_killed_once_costs_no_picture(pool):
    pool.decode(GOOD, LIMITS, 640)
    for process in processes(pool):
        process.kill()
    assert pool.decode(GOOD, LIMITS, 640).width == 64


def test_memory_is_bounded_by_the_system(pool):
    # What a decoder takes beyond its estimate is refused, whatever the header said.
    flat = encoded(Image.new("RGBA", (5000, 5000)), "WEBP", lossless=True)
    assert len(flat) < 10_000
    small = DecoderPool(1, 500_000_000)
    try:
        with pytest.raises(RefusedError, match=r"needs 0\.6 GB .* limit of 0\.5"):
            small.decode(flat, LARGE, 640)
        assert small.decode(GOOD, LIMITS, 640).width == 64
        assert processes(small)[0].memory_info().rss < 150_000_000
    finally:
        small.close()


def test_large_pictures_wait_for_each_others_memory():
    flat = encoded(Image.new("RGB", (4000, 3000)), "WEBP", lossless=True)
    pool = DecoderPool(4, 300_000_000)
    found, peak, done = [], [0], threading.Event()

    def watch():
        while not done.wait(0.01):
            peak[0] = max(peak[0], sum(p.memory_info().rss for p in processes(pool)))

    def work():
        found.append(pool.decode(flat, LARGE, 640).width)

    for _ in range(4):
        pool.decode(GOOD, LIMITS, 640)
    watcher = threading.Thread(target=watch)
    watcher.start()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()
    pool.close()
    assert found == [4000] * 4
    assert peak[0] < 300_000_000 + 4 * 60_000_000


def test_a_small_picture_does_not_wait_while_large_ones_wait_for_memory():
    flat = encoded(Image.new("RGB", (4000, 3000)), "WEBP", lossless=True)
    pool = DecoderPool(2, 300_000_000)
    pool.decode(GOOD, LIMITS, 640)
    threads = [threading.Thread(target=pool.decode, args=(flat, LARGE, 640)) for _ in range(3)]
    try:
        with pool.memory.reserved(300_000_000):  # as a picture of another thread would
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            assert pool.decode(GOOD, LIMITS, 640).width == 64
    finally:
        for thread in threads:
            thread.join()
        pool.close()


def test_the_budget_serves_in_turn_and_refuses_what_never_fits():
    budget = MemoryBudget(10)
    order = []
    with budget.reserved(6):

        def ask(size):
            with budget.reserved(size):
                order.append(size)

        threads = []
        for size in (9, 1):  # the small one would fit, and must not pass the large one for ever
            threads.append(threading.Thread(target=ask, args=(size,)))
            threads[-1].start()
            time.sleep(0.05)
        assert order == []
    for thread in threads:
        thread.join()
    assert sorted(order) == [1, 9]
    with pytest.raises(RefusedError, match="over the limit"), budget.reserved(11):
        pass


def test_what_nobody_waits_for_is_stopped_at_once(pool):
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    started = time.monotonic()
    with pytest.raises(DecodingStoppedError):
        pool.decode(slow_bmp(), LARGE, 640, stop)
    assert time.monotonic() - started < 5
    assert pool.processes() == []


def test_a_closed_pool_ends_its_work_and_its_processes(pool):
    caught = []

    def work():
        try:
            pool.decode(slow_bmp(), LARGE, 640)
        except DecodingStoppedError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not pool.processes():
        time.sleep(0.01)
    process = processes(pool)[0]
    pool.close()
    thread.join(5)
    assert len(caught) == 1
    assert not process.is_running()
    with pytest.raises(DecodingStoppedError):
        pool.decode(GOOD, LIMITS, 640)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_their_parent_even_in_the_middle_of_a_picture(number, tmp_path):
    (tmp_path / "slow.bmp").write_bytes(slow_bmp())
    script = f"""
import pathlib, sys, threading, time
sys.path.insert(0, ".")
from core.images.decode import DecodeLimits, decode
from core.images.sandbox.decoder_pool import decoder_pool
path = pathlib.Path({str(tmp_path / "slow.bmp")!r})
work = lambda: decode(path, "x", DecodeLimits(50_000_000, 100_000_000))
threading.Thread(target=work).start()
while not decoder_pool().processes():
    time.sleep(0.01)
time.sleep(0.7)
print(decoder_pool().processes()[0].pid, flush=True)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(number)
    parent.wait(10)
    gone, alive = psutil.wait_procs([child], timeout=3)
    assert alive == []


def test_a_forked_child_has_decoders_of_its_own():
    decode(GOOD, "x", LIMITS)
    child = os.fork()
    if child == 0:
        os._exit(0 if decode(GOOD, "x", LIMITS).width == 64 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert decode(GOOD, "x", LIMITS).width == 64


def test_threads_that_begin_together_share_one_pool():
    script = """
import sys, threading
sys.path.insert(0, ".")
from core.images.sandbox.decoder_pool import decoder_pool
found, together = set(), threading.Barrier(8)
def work():
    together.wait()
    found.add(decoder_pool())
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(found))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr


# -- cheap to send and dear to open


def empty_scans(count: int) -> bytes:
    content = encoded(two_halves(), "JPEG", progressive=True)
    return content[:-2] + b"\xff\xda\0\x08\1\1\0\x3f\x3f\0" * count + b"\xff\xd9"


def empty_comments(count: int, size=0) -> bytes:
    content = encoded(Image.new("P", (1, 1)), "GIF")
    at = content.index(b",")
    block = b"!\xfe" + (bytes([size]) + bytes(size) if size else b"") + b"\0"
    return content[:at] + block * count + content[at:]


def one_long_comment(parts: int) -> bytes:
    content = encoded(Image.new("P", (1, 1)), "GIF")
    at = content.index(b",")
    return content[:at] + b"!\xfe" + (b"\xff" + bytes(255)) * parts + b"\0" + content[at:]


def tiff_of_pages(count: int) -> bytes:
    """A first page and so many more."""
    page = encoded(Image.new("L", (1, 1)), "TIFF")
    at = struct.unpack("<I", page[4:8])[0]
    entries = struct.unpack("<H", page[at : at + 2])[0]
    size = 2 + 12 * entries + 4
    head = page[: at + size - 4]
    start = len(page) + len(page) % 2
    pages = [
        page[at : at + size - 4] + struct.pack("<I", start + (i + 1) * size if i + 1 < count else 0)
        for i in range(count)
    ]
    first = head + struct.pack("<I", start) + page[at + size :]
    return first.ljust(start, b"\0") + b"".join(pages)


def tiff_of_strips(count: int) -> bytes:
    entries = [(256, 4, 1, 1), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    at = 8 + 2 + 12 * 9 + 4
    entries += [(273, 4, count, at), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, count, at)]
    head = b"II*\0" + struct.pack("<IH", 8, 9)
    return head + b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4) + bytes(4 * count)


def png_of_chunks(count: int) -> bytes:
    content = encoded(two_halves(), "PNG")
    return content[:33] + chunk(b"tEXt", b"a\0") * count + content[33:]


DEAR = {
    "scans": (empty_scans(300_000), "is sent in more than 200 scans"),
    "segments": (GOOD[:2] + b"\xff\xfe\0\2" * 1_000_000 + GOOD[2:], "more than 5,000 blocks"),
    "comments": (empty_comments(1_500_000), "is made of more than 100,000 blocks"),
    "strips": (tiff_of_strips(1_000_000), "is cut into 1,000,000 strips or tiles"),
    "chunks": (png_of_chunks(300_000), "is made of more than 100,000 blocks"),
}


@pytest.mark.parametrize("name", DEAR)
def test_what_is_cheap_to_send_and_dear_to_open_is_refused_by_counting(name):
    content, reason = DEAR[name]
    decode(GOOD, "x", LARGE)
    started = time.process_time(), time.monotonic()
    assert reason in refusal(content, LARGE).reason
    assert time.monotonic() - started[1] < 2


def test_pages_and_comments_are_left_out_where_they_do_not_matter():
    decode(GOOD, "x", LARGE)
    started = time.monotonic()
    of_pages = decode(tiff_of_pages(100_000), "x", LARGE)
    assert of_pages.notes == ("shows its first frame of several",)
    assert decode(one_long_comment(60_000), "x", LARGE).notes == ()
    assert decode(empty_comments(20_000, 3), "x", LARGE).notes == ()
    assert time.monotonic() - started < 4
    assert decode(tiff_of_pages(2), "x", LARGE).notes == ("shows its first frame of 3",)


def test_a_float_tiff_of_few_bytes_takes_little_memory_more_than_its_samples():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4000, 4000), np.float32)).save(
        buffer, "TIFF", compression="tiff_adobe_deflate"
    )
    pool = DecoderPool(1, 18 * 16_000_000 + 1_000_000)
    try:
        assert pool.decode(buffer.getvalue(), LARGE, 640).width == 4000
    finally:
        pool.close()
