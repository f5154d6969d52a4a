"""Pictures that are no everyday photos: made by code from a seed, or samples of scikit-image.

A captioner trained on photos of people and dogs says something of these too. What it is worth is
measured with them: screenshots, pages, drawings, charts, noise, plain colours and gradients.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFont

EACH_KIND = 8
"""Pictures made of each kind."""

_SIZE = (480, 360)
_VOCABULARY = (
    "report total invoice value system update account settings message the of and to in for "
    "payment review chapter figure result table order number page model file network summary "
    "section date name price section draft method volume error open save close search help"
)
_INKS = ("#1b1b1b", "#24408e", "#8e2424", "#2b6b3a", "#5a3d8a", "#b0611a")

_SAMPLES = (
    "brick.png",
    "cell.png",
    "chessboard_GRAY.png",
    "chessboard_RGB.png",
    "clock_motion.png",
    "coins.png",
    "color.png",
    "grass.png",
    "gravel.png",
    "horse.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "logo.png",
    "microaneurysms.png",
    "moon.png",
    "multipage.tif",
    "page.png",
    "phantom.png",
    "retina.jpg",
    "text.png",
)


def made_pictures(each: int = EACH_KIND, seed: int = 0) -> Iterator[tuple[str, Image.Image]]:
    """Yield ``each`` RGB pictures of every kind with the kind's name; the same for the same seed.

    Args:
        each: Pictures of a kind.
        seed: Of everything that is drawn by lot.
    """
    for kind, make in _KINDS.items():
        for number in range(each):
            yield kind, make(Random(f"{kind} {number} {seed}"))


def sample_files() -> list[Path]:
    """Return the textures, scans, drawings and microscope pictures that scikit-image carries."""
    found = importlib.util.find_spec("skimage")
    folders = (found and found.submodule_search_locations) or ()
    paths = [Path(folder) / "data" / name for folder in folders for name in _SAMPLES]
    return [path for path in paths if path.is_file()]


def _screenshot(random: Random) -> Image.Image:
    dark = random.random() < 0.4
    ground, panel, ink = (
        ("#1e1f24", "#2a2c33", "#d6d7dc") if dark else ("#f4f5f7", "#ffffff", "#22242a")
    )
    image, draw = _canvas(ground)
    width, height = _SIZE
    draw.rectangle((0, 0, width, 26), fill=random.choice(_INKS))
    for button in range(3):
        draw.ellipse((8 + 18 * button, 8, 18 + 18 * button, 18), fill="#dddddd")
    draw.text((80, 7), _line(random, 3), fill="#ffffff", font=_font(11))
    side = random.randint(80, 150)
    draw.rectangle((0, 26, side, height), fill=panel)
    for row in range(random.randint(5, 10)):
        draw.text((10, 40 + 24 * row), _line(random, 1), fill=ink, font=_font(12))
    for row in range(random.randint(2, 5)):
        top = 40 + 62 * row
        draw.rounded_rectangle((side + 12, top, width - 12, top + 52), 6, fill=panel)
        draw.text((side + 22, top + 8), _line(random, 4), fill=ink, font=_font(13))
        draw.text((side + 22, top + 28), _line(random, 6), fill=ink, font=_font(10))
    return image


def _document(random: Random) -> Image.Image:
    image, draw = _canvas(random.choice(("#ffffff", "#fbf8ef", "#f2f2f2")), (360, 480))
    draw.text((40, 30), _line(random, 3).title(), fill="#111111", font=_font(20))
    y, size = 70, random.choice((9, 10, 12))
    while y < 440:
        words = random.randint(3, 5) if random.random() < 0.15 else 340 // (size * 4)
        draw.text((40, y), _line(random, words), fill="#222222", font=_font(size))
        y += size + (16 if random.random() < 0.15 else 4)
    return image


def _drawing(random: Random) -> Image.Image:
    image, draw = _canvas("#ffffff")
    for _ in range(random.randint(5, 14)):
        ink, width = random.choice(_INKS), random.randint(1, 5)
        (left, top), (right, bottom) = _point(random), _point(random)
        box = (min(left, right), min(top, bottom), max(left, right) + 9, max(top, bottom) + 9)
        shape = random.choice(("ellipse", "rectangle", "line", "curve", "arc"))
        if shape == "ellipse":
            draw.ellipse(box, outline=ink, width=width)
        elif shape == "rectangle":
            draw.rectangle(box, outline=ink, width=width)
        elif shape == "arc":
            draw.arc(box, random.randint(0, 180), random.randint(180, 360), fill=ink, width=width)
        else:
            points = [_point(random) for _ in range(2 if shape == "line" else 7)]
            draw.line(points, fill=ink, width=width, joint="curve")
    return image


def _chart(random: Random) -> Image.Image:
    image, draw = _canvas("#ffffff")
    draw.text((150, 12), _line(random, 3).title(), fill="#222222", font=_font(15))
    kind = random.choice(("bars", "lines", "pie", "points"))
    if kind == "pie":
        start = 0.0
        for ink in _INKS:
            end = min(360.0, start + random.uniform(30, 110))
            draw.pieslice((130, 60, 350, 280), start, 360 if ink == _INKS[-1] else end, fill=ink)
            start = end
        return image
    draw.line([(60, 50), (60, 310), (450, 310)], fill="#222222", width=2)
    for mark in range(5):
        draw.text((30, 300 - 55 * mark), str(20 * mark), fill="#222222", font=_font(10))
    count = random.randint(4, 9)
    step = 380 // count
    for series in range(random.randint(1, 3)):
        ink = _INKS[series]
        points = [(70 + step * i, 305 - random.randint(15, 230)) for i in range(count)]
        for x, y in points:
            if kind == "bars":
                left = x + series * step // 4
                draw.rectangle((left, y, left + step // 4, 308), fill=ink)
            elif kind == "points":
                draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=ink)
        if kind == "lines":
            draw.line(points, fill=ink, width=3)
    return image


def _noise(random: Random) -> Image.Image:
    grain = random.choice((1, 2, 4, 8, 24))
    mode, channels = random.choice((("L", 1), ("RGB", 3)))
    size = (_SIZE[0] // grain, _SIZE[1] // grain)
    noise = Image.frombytes(mode, size, random.randbytes(size[0] * size[1] * channels))
    smooth = random.choice((Image.Resampling.NEAREST, Image.Resampling.BILINEAR))
    return noise.convert("RGB").resize(_SIZE, smooth)


def _plain(random: Random) -> Image.Image:
    return Image.new("RGB", _SIZE, _colour(random))


def _gradient(random: Random) -> Image.Image:
    make = Image.linear_gradient if random.random() < 0.6 else Image.radial_gradient
    ramp = make("L").rotate(random.choice((0, 90, 180, 270))).resize(_SIZE)
    return Image.composite(
        Image.new("RGB", _SIZE, _colour(random)), Image.new("RGB", _SIZE, _colour(random)), ramp
    )


_KINDS: dict[str, Callable[[Random], Image.Image]] = {
    "screenshot": _screenshot,
    "document": _document,
    "drawing": _drawing,
    "chart": _chart,
    "noise": _noise,
    "plain colour": _plain,
    "gradient": _gradient,
}


def _canvas(ground: str, size: tuple[int, int] = _SIZE) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", size, ground)
    return image, ImageDraw.Draw(image)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _line(random: Random, words: int) -> str:
    vocabulary = _VOCABULARY.split()
    return " ".join(random.choice(vocabulary) for _ in range(words))


def _point(random: Random) -> tuple[int, int]:
    return random.randint(20, _SIZE[0] - 20), random.randint(20, _SIZE[1] - 20)


def _colour(random: Random) -> tuple[int, int, int]:
    return random.randrange(256), random.randrange(256), random.randrange(256)
