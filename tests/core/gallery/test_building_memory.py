"""What puts a gallery together holds parts of its embeddings, each time in a process of its own.

Only anonymous memory counts: pages of mapped files are the system's to take back.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.core.planted import unit_rows

ROOT = Path(__file__).parents[3]
WATCHED = """
import sys, threading
from pathlib import Path
import numpy as np

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon"))

def peak_of(work):
    done, held = threading.Event(), [anonymous()]
    def watch():
        while not done.wait(0.002):
            held.append(anonymous())
    thread = threading.Thread(target=watch)
    thread.start()
    work()
    done.set()
    thread.join()
    print(max(held) - held[0])

folder = Path(sys.argv[1])
rows = np.load(folder / "rows.npy", mmap_mode="r")
"""
INDEXES = """
from core.gallery.index_files import write_indexes
write_indexes(folder, "clip", rows[:100], ("ivf",))
peak_of(lambda: write_indexes(folder, "clip", rows, ("flat", "ivf")))
"""
MAPS = """
import core.map.layout as layout
layout.MOST_EMBEDDED = 300
layout.lay_out({"captions": rows[:400], "clip": rows[:400]})
peak_of(lambda: layout.lay_out({"captions": rows, "clip": rows}))
"""
MEANS = """
from core.gallery.caption_rows import CaptionRows
several = CaptionRows.counted(np.full(len(rows) // 2, 2))
peak_of(lambda: several.indexed(rows, "mean", folder))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell")
@pytest.mark.parametrize(
    ("work", "shape", "most_mb"),
    # Held whole, the vectors take 25 MB, both maps' components 32 and the means 20.
    [(INDEXES, (6_000, 1024), 20), (MAPS, (40_000, 64), 20), (MEANS, (20_000, 512), 15)],
    ids=["indexes", "maps", "means"],
)
def test_memory_does_not_hold_the_embeddings(work, shape, most_mb, tmp_path):
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float32, shape)
    rows[:] = unit_rows(*shape)
    rows.flush()
    command = [sys.executable, "-c", WATCHED + work, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < most_mb
