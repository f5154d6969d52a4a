"""Samples of any depth made 8 bits wide, block by block, so that little more memory is needed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from core.images.recognise import DAMAGED, TRUNCATED, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    import tifffile

_SAMPLES_A_BLOCK = 4_000_000
_USUAL_RANGES = (1.0, 255.0, 65535.0)


def eight_bit_grey(image: Image.Image) -> Image.Image:
    """Return a picture of mode F, I or I;16 as L."""
    import numpy as np

    rows = max(1, _SAMPLES_A_BLOCK // image.width)
    tops = range(0, image.height, rows)
    blocks = [(0, top, image.width, min(top + rows, image.height)) for top in tops]

    def samples() -> Iterator[np.ndarray]:
        for box in blocks:
            yield np.asarray(image.crop(box))

    scale = _scale(samples)
    result = Image.new("L", image.size)
    for box, block in zip(blocks, samples(), strict=True):
        result.paste(Image.fromarray(scale(block)), box)
    return result


def tiff_of_other_depth(
    content: bytes, admit: Callable[[tuple[int, int], int], None]
) -> Image.Image:
    """Decode the first page of a TIFF whose kind of samples Pillow does not know.

    Args:
        content: The file.
        admit: Called with width and height, and the bytes that are needed for each pixel, before
            they are taken; raises if that is too much.

    Returns:
        L, LA, RGB or RGBA.

    Raises:
        RefusedError: It is of a kind that is not read here either.
    """
    import tifffile

    try:
        page = tifffile.TiffFile(io.BytesIO(content)).pages.first
    except Exception as error:  # on hostile bytes, decoders raise anything
        raise RefusedError(DAMAGED) from error
    sample_bytes = page.dtype.itemsize if page.dtype else 8
    # The samples, perhaps once more as they are put in order, and the picture of 8 bits.
    admit((page.imagewidth, page.imagelength), page.samplesperpixel * (2 * sample_bytes + 2))
    try:
        array, colours = _page_array(page)
    except MemoryError:
        raise
    except Exception as error:  # it has decoders for some kinds of compression only
        parts = zip(page.dataoffsets, page.databytecounts, strict=False)
        if any(start + size > len(content) for start, size in parts):
            raise RefusedError(TRUNCATED) from error
        raise RefusedError(f"is a TIFF of a kind that is not read here ({_kind(page)})") from error
    samples = _eight_bit(array, colours)
    return Image.fromarray(samples[:, :, 0] if samples.shape[2] == 1 else samples)


def _kind(page: tifffile.TiffPage) -> str:
    depth = f"{page.dtype.name} samples" if page.dtype else "samples of an odd width"
    compression = getattr(page.compression, "name", str(page.compression)).lower()
    return f"{depth}, {page.samplesperpixel} a pixel, compression {compression}"


def _page_array(page: tifffile.TiffPage) -> tuple[np.ndarray, int]:
    """Return samples (height, width, 1 to 4) and how many of them are colours.

    Raises:
        ValueError: The page is no picture of that form.
    """
    import numpy as np

    colours = {"MINISBLACK": 1, "RGB": 3}.get(getattr(page.photometric, "name", ""))
    array = page.asarray()
    if page.axes == "YX":
        array = array[:, :, None]
    elif page.axes == "SYX":
        array = np.moveaxis(array, 0, 2)
    if colours is None or array.ndim != 3 or page.axes not in ("YX", "SYX", "YXS"):
        raise ValueError("not grey and not RGB")
    if array.dtype.kind not in "uif" or array.shape[2] < colours:
        raise ValueError("no samples of a colour")
    return array[:, :, : colours + bool(page.extrasamples)], colours


def _eight_bit(array: np.ndarray, colours: int) -> np.ndarray:
    """Return uint8 of the same shape; transparency has a range of its own."""
    import numpy as np

    height, width, channels = array.shape
    rows = max(1, _SAMPLES_A_BLOCK // (width * channels))
    result = np.empty(array.shape, np.uint8)
    for part in (np.s_[:, :, :colours], np.s_[:, :, colours:]):
        source, target = array[part], result[part]
        if not source.size:
            continue
        cuts = [slice(top, top + rows) for top in range(0, height, rows)]
        scale = _scale(lambda: (source[cut] for cut in cuts))  # noqa: B023 - called at once
        for cut in cuts:
            target[cut] = scale(source[cut])
    return result


def _scale(blocks: Callable[[], Iterable[np.ndarray]]) -> Callable[[np.ndarray], np.ndarray]:
    """Return what makes samples of one picture 8 bits wide: nothing is clipped.

    Args:
        blocks: Gives all samples of the picture, as often as it is called.
    """
    import numpy as np

    dtype = next(iter(blocks())).dtype
    if dtype == np.uint8:
        return lambda block: block
    if dtype == np.uint16:
        return lambda block: (block >> 8).astype(np.uint8)

    def finite(block: np.ndarray) -> np.ndarray:
        return np.nan_to_num(block.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)

    low, high = 0.0, -np.inf
    for block in blocks():
        values = finite(block)
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low == 0.0:
        # The least of the usual ranges that holds every sample, so that a dark picture stays dark.
        high = next((top for top in _USUAL_RANGES if high <= top), high)
        if dtype.kind != "f":
            high = max(high, 255.0)
    span = (high - low) or 1.0
    return lambda block: ((finite(block) - low) * (255.0 / span)).round().astype(np.uint8)
