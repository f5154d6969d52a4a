"""Datasets of the Hub by name: what ``build NAME`` and ``build --preset NAME`` read.

Checked without the Hub: ids, columns, splits, sizes and licences are as dataset cards and programs
that read them state. A revision of None was not to be had that way: the build takes the newest
commit and writes it into the manifest; give that one by ``--revision`` from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import SourceError
from precompute.sources.types import SourceOptions


@dataclass(frozen=True, slots=True)
class Preset:
    """A dataset that is worth a gallery.

    Attributes:
        name: What ``build`` calls it.
        title: For people.
        dataset: Hugging Face dataset id.
        revision: Commit of the dataset; None where it is not known.
        split: Split of the dataset.
        image_column: Column of the pictures.
        caption_column: Column of reference captions, for evaluation; None if there is none.
        images: Pictures in the split.
        licence: As the dataset's authors state it.
        why: What it shows of the two lenses.
        queries: Ten to try.
        limit: Most pictures that are read unless another limit is given; None reads all.
        caption_lines: Whether the captions are one text with a caption a line.
    """

    name: str
    title: str
    dataset: str
    revision: str | None
    split: str
    image_column: str
    caption_column: str | None
    images: int
    licence: str
    why: str
    queries: tuple[str, ...]
    limit: int | None = None
    caption_lines: bool = False

    @property
    def read(self) -> int:
        """Pictures that a build reads."""
        return min(self.images, self.limit or self.images)

    def lines(self) -> Iterator[str]:
        """Yield what ``--list-presets`` says of it."""
        columns = self.image_column + (f", {self.caption_column}" if self.caption_column else "")
        first = "" if self.read == self.images else f"the first {self.read:,} of "
        yield f"{self.name}: {self.title}"
        yield f"  {self.dataset}@{self.revision or 'newest (commit not known here)'}"
        yield f"  split {self.split}, columns {columns}, {first}{self.images:,} pictures"
        yield f"  licence: {self.licence}"
        yield f"  {self.why}"
        yield f"  try: {' · '.join(self.queries)}"


_FLICKR = "photos: their owners', by Flickr's terms, for research and education only"

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="flickr8k",
            title="Flickr8k test (1K)",
            dataset="clip-benchmark/wds_flickr8k",
            revision="29a4c1415476776da0825c11b5175d5c3bdae68e",
            split="test",
            image_column="jpg",
            caption_column="txt",
            caption_lines=True,
            images=1000,
            licence=_FLICKR,
            why="The small benchmark: people and dogs in action, five captions a photo.",
            queries=(
                *("a brown dog runs through the grass", "two children on a beach"),
                *("a man on a mountain bike", "a girl in a pink dress", "someone climbing a rock"),
                *("a dog catching a frisbee", "a crowd in the street", "snowboarder in mid-air"),
                *("a baby laughing", "players fighting for the ball"),
            ),
        ),
        Preset(
            name="flickr30k",
            title="Flickr30k test (1K Karpathy)",
            dataset="royokong/flickr30k_test",
            revision="e5d418e5d73970abdca4f9d97914e1b4cce76478",
            split="test",
            image_column="image",
            caption_column="text",
            images=1000,
            licence=_FLICKR,
            why="The benchmark that most papers give figures for; everyday life, five captions a "
            "photo. MiniLM learnt from its captions.",
            queries=(
                *("a street musician with a guitar", "construction workers on a roof"),
                *("a woman painting a picture", "children in a swimming pool"),
                *("an old man reading a newspaper", "a barbecue in the garden"),
                *("a bicycle race", "a bride and groom", "people waiting for a train"),
                "a surgeon at work",
            ),
        ),
        Preset(
            name="coco",
            title="COCO test (5K Karpathy)",
            dataset="royokong/coco_test",
            revision="da692c8d9fb7b7b24424984f02499244c80221cf",
            split="test",
            image_column="image",
            caption_column="text",
            images=5000,
            licence="captions CC BY 4.0; photos by Flickr's terms, each with a Creative Commons "
            "licence",
            why="Larger and with more objects in a photo: where one short caption leaves things "
            "out. InstructBLIP and MiniLM learnt from its captions.",
            queries=(
                *("a giraffe eating leaves", "a cat asleep on a laptop", "a plate with two pizzas"),
                *("a red double-decker bus", "a bathroom with a blue sink", "kites over a beach"),
                *("a traffic light at night", "a man with three phones", "zebras at a waterhole"),
                "a kitchen without people",
            ),
        ),
        Preset(
            name="wikiart",
            title="WikiArt: paintings of 27 styles",
            dataset="huggan/wikiart",
            revision=None,
            split="train",
            image_column="image",
            caption_column=None,
            images=81_444,
            limit=10_000,
            licence="for non-commercial research only",
            why="Captions name what is painted, CLIP also knows how: ask for a style or a mood.",
            queries=(
                *("a stormy sea with ships", "a cubist portrait", "a bowl of fruit"),
                *("loneliness", "a woman with a fan", "fields in the evening light"),
                *("geometric shapes in primary colours", "a saint with a halo"),
                *("a city street in the rain, impressionist", "a battle on horseback"),
            ),
        ),
        Preset(
            name="fashion",
            title="Fashion product images (small)",
            dataset="ashraq/fashion-product-images-small",
            revision="bd09c69e56fc0b1f279743fef89d735f3bdf8a42",
            split="train",
            image_column="image",
            caption_column="productDisplayName",
            images=44_072,
            limit=10_000,
            licence="not stated on the Hub; its source says MIT",
            why="Tiny pictures of single products before white: colour, cut and pattern decide, "
            "and the product names are reference captions.",
            queries=(
                *("a red dress", "white running shoes", "men's checked shirt", "a leather handbag"),
                *("sunglasses with a gold frame", "a watch with a brown strap", "blue jeans"),
                *("something for a wedding", "a striped T-shirt for children", "silver earrings"),
            ),
        ),
        Preset(
            name="rsicd",
            title="RSICD: aerial photos with captions",
            dataset="arampacha/rsicd",
            revision=None,
            split="test",
            image_column="image",
            caption_column="captions",
            images=1_093,
            licence="not stated on the Hub; published for research",
            why="The world from above, which neither model saw much of: an honest hard case with "
            "five captions a picture.",
            queries=(
                *("an airport with several planes", "a baseball field", "boats in a harbour"),
                *("a river through a green forest", "a football stadium", "dense houses"),
                *("a bridge over water", "a beach with white waves", "storage tanks"),
                "a roundabout",
            ),
        ),
        Preset(
            name="rare-species",
            title="Rare Species: 400 endangered animals",
            dataset="imageomics/rare-species",
            revision=None,
            split="train",
            image_column="image",
            caption_column=None,
            images=11_983,
            licence="CC0 to CC BY-NC-SA, photo by photo; see its metadata/licenses.csv",
            why="Wildlife that captions call 'a bird on a branch': names and habitats tell the "
            "lenses apart.",
            queries=(
                *("a tortoise on sand", "a blue and yellow parrot", "a frog on a leaf"),
                *("coral under water", "a monkey with a white face", "an eagle in flight"),
                *("a whale jumping", "a lizard on a tree", "a butterfly with open wings"),
                "an animal that hides",
            ),
        ),
        Preset(
            name="food101",
            title="Food-101: dishes, the validation photos",
            dataset="ethz/food101",
            revision=None,
            split="validation",
            image_column="image",
            caption_column=None,
            images=25_250,
            limit=10_000,
            licence="photos of Foodspotting, for scientific fair use only",
            why="101 dishes by name: words that a captioner rarely uses and CLIP often knows.",
            queries=(
                *("sushi on a wooden board", "pancakes with berries", "a bowl of ramen with egg"),
                *("oysters on ice", "chocolate cake with a fork", "tacos"),
                *("something spicy", "breakfast for two", "a burger and fries", "green salad"),
            ),
        ),
        Preset(
            name="screens",
            title="RICO Screen2Words: screens of phones",
            dataset="rootsautomation/RICO-Screen2Words",
            revision="fcd10c2cda2538ed71b1028984675fa29854283b",
            split="test",
            image_column="image",
            caption_column="captions",
            images=4_310,
            licence="CC BY 4.0",
            why="Screenshots, most of it text: far from photos, with five descriptions each, and "
            "where captions are called unsure.",
            queries=(
                *("a login page with a password field", "a map with a route", "a music player"),
                *("settings with switches", "a calendar", "list of news articles"),
                *("a shopping cart", "weather forecast", "a chat", "a page that asks to pay"),
            ),
        ),
        Preset(
            name="cc-photos",
            title="CommonCatalog: Flickr photos under CC BY",
            dataset="common-canvas/commoncatalog-cc-by",
            revision="b43c85914bda0223830d13554e71f5f09d897a8a",
            split="train",
            image_column="jpg",
            caption_column=None,
            images=14_600_000,
            limit=5_000,
            licence="CC BY 2.0, photo by photo: licence and page come with each",
            why="A public demo may show these photos, each with its licence and its page. The "
            "captions that it brings were written by BLIP-2 and measure nothing.",
            queries=(
                *("a lighthouse at sunset", "a crowded market", "an old car", "a church inside"),
                *("snow on mountains", "a concert at night", "a dog on a sofa"),
                *("a bridge in the fog", "children with balloons", "silence"),
            ),
        ),
    )
}


def preset(name: str) -> Preset:
    """Return a preset by its name.

    Raises:
        SourceError: There is none of that name.
    """
    if name not in PRESETS:
        raise SourceError(f"There is no preset {name!r}. Known are: {', '.join(PRESETS)}.")
    return PRESETS[name]


def preset_of(dataset: str, split: str | None) -> Preset | None:
    """Return the preset that a dataset id and split are, or None."""
    for candidate in PRESETS.values():
        if (candidate.dataset, candidate.split) == (dataset, split):
            return candidate
    return None


def expand(options: SourceOptions) -> SourceOptions:
    """Replace a preset's name by its dataset; what was given beside the name is kept.

    A folder of that name goes before the preset; other sources are returned as they are.
    """
    found = PRESETS.get(options.source)
    if found is None or Path(options.source).exists():
        return options
    same_column = options.caption_column in (None, found.caption_column)
    return replace(
        options,
        source=found.dataset,
        revision=options.revision or found.revision,
        split=options.split or found.split,
        image_column=options.image_column or found.image_column,
        caption_column=options.caption_column or found.caption_column,
        caption_lines=found.caption_lines and same_column,
        limit=options.limit or found.limit,
    )
