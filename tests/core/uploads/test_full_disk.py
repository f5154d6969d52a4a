"""What a full disk looks like to who writes a gallery: an error with its number."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from core.gallery.writer import write_array
from core.search.index import Index

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_an_error_in_writing_keeps_its_number(tmp_path):
    rows = np.eye(300, dtype=np.float32)
    with pytest.raises(OSError, match="No space left") as full:
        write_array(FULL, rows)
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space left|could not be written") as full:
        Index.build(rows, [str(row) for row in range(300)], "flat").save(FULL)
    assert full.value.errno in (errno.ENOSPC, errno.EIO)
