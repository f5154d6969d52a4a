"""Measures how long a frame of the tab "Map" takes while both maps move.

Run as ``python -m tests.e2e.map_frames [POINTS]``; Chromium paints without a GPU here.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from core.ui.galleries.shelf import Shelf
from tests.core import planted
from tests.e2e.conftest import CHROMIUM
from tests.planted_app import DIM, planted_models, planted_profile, serving

FRAMES = """
async ([frames, paints]) => {
  const charts = paints ? window.twolens.map.charts : [];
  const [work, gaps] = [[], []];
  let last = 0;
  for (let frame = 0; frame < frames; frame++) {
    const now = await new Promise(requestAnimationFrame);
    if (last) gaps.push(now - last);
    last = now;
    const began = performance.now();
    for (const chart of charts) chart.frame(1 + 0.3 * Math.sin(frame / 9));
    work.push(performance.now() - began);
  }
  const at = (list, share) => list.sort((a, b) => a - b)[Math.floor(share * list.length)];
  return [work, gaps].map((list) => [at(list, 0.5), at(list, 0.95)]);
}
"""


def main(points: int) -> None:
    from core.gallery.manifest import SourceRef
    from core.gallery.writer import write_array, write_gallery
    from core.map.stored import MAP_FILES, map_file

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        profile = planted_profile(folder)
        pictures, out = planted.records(points), folder / "many"
        out.mkdir()
        rows = planted.unit_rows(points, DIM)
        # How long a frame takes does not depend on where the points come from.
        for seed, lens in enumerate(("captions", "clip")):
            places = np.random.default_rng(seed).normal(size=(points, 2)).astype(np.float32)
            write_array(out / map_file(lens), places)
        (out / "map.json").write_text('{"method": "random places"}')
        write_gallery(
            out,
            name="many",
            records=pictures,
            caption_embeddings=rows,
            clip_embeddings=rows,
            copies=planted.PlantedCopies(pictures),
            profile=profile,
            source=SourceRef(kind="folder", id="drawn"),
            extra_files=MAP_FILES,
        )
        shelf = Shelf.open([out], profile, planted_models(profile), max_query_chars=100)
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        with serving(shelf) as address:
            for scale in (1, 2):
                page = browser.new_page(
                    viewport={"width": 1280, "height": 900}, device_scale_factor=scale
                )
                page.goto(address)
                page.get_by_role("tab", name="Map", exact=True).click()
                page.wait_for_function("window.twolens?.map?.data()")
                page.wait_for_timeout(500)
                _, idle = page.evaluate(FRAMES, [120, False])
                work, gaps = page.evaluate(FRAMES, [120, True])
                sys.stdout.write(
                    f"two maps of {points:,} points, {scale} pixels a CSS pixel: "
                    f"{work[0]:.1f} ms a frame (95 %: {work[1]:.1f}), a frame every "
                    f"{gaps[0]:.1f} ms (95 %: {gaps[1]:.1f}); without painting every "
                    f"{idle[0]:.1f} ms ({idle[1]:.1f})\n"
                )
        browser.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
