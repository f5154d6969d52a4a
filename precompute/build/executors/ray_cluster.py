"""Shards made on a Ray cluster: a pool of decoders on CPUs, a pool of describers on GPUs if any.

What a decoder made of a shard goes to a describer through Ray's object store; a describer writes
the shard into the workspace and returns the number of its rows, never a picture. An actor that dies
is started again, and its shard is made again: the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from core.errors import MissingDependencyError, TwoLensError
from precompute.build.earlier import EarlierGallery
from precompute.build.executors.local import ShardWriter
from precompute.build.shards.pictures import Picture
from precompute.build.shards.stages import Decoding, Describing, ShardRows, write
from precompute.build.workspace import Workspace
from precompute.sources.open import open_source

if TYPE_CHECKING:
    from core.config import Settings
    from precompute.build.plan import BuildOptions
    from precompute.build.shards.shard import Skipped

_ROOT = Path(__file__).resolve().parents[3]
_DECODERS_A_DESCRIBER = 4
_IN_FLIGHT_A_DESCRIBER = 2
"""Shards that wait for a describer or are described: pictures take the object store's memory."""
_RETRIES = 3

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Work:
    """What every actor needs to know.

    Attributes:
        options: Of the build; its paths lead to the same files on every machine.
        settings: Limits of decoding.
        out: Folder that the gallery will be.
        updates: Whether the gallery there is updated.
    """

    options: BuildOptions
    settings: Settings
    out: Path
    updates: bool


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An error raised on purpose, on its way to the driver."""

    sentence: str


class _Decoder:
    """An actor that reads and decodes shards."""

    def __init__(self, work: Work) -> None:
        source = open_source(work.options.source)
        self._rows = ShardRows(source, work.options.shard_size)
        self._decoding = Decoding(work.options, work.settings, source)
        self._threads = ThreadPoolExecutor(2, "decode")

    def decode(self, number: int) -> list[Picture | Skipped] | _Refusal:
        from threading import Event

        def pictures() -> list[Picture | Skipped]:
            stop, rows = Event(), self._rows(number)
            found = list(self._threads.map(lambda row: self._decoding(row, stop), rows))
            return [one.without_content() if isinstance(one, Picture) else one for one in found]

        return _answered(pictures)


class _Describer:
    """An actor that describes shards and writes them."""

    def __init__(self, work: Work) -> None:
        from core.models.profiles import Models
        from core.models.text_reader import TextReader

        options = work.options
        source = open_source(options.source)
        self._workspace = Workspace(work.out)
        earlier = [EarlierGallery(work.out, options.profile)] if work.updates else []
        self._describing = Describing(
            options,
            source.columns,
            source.kind,
            Models(options.profile, device=options.device),
            TextReader() if options.read_text else None,
            *earlier,
        )
        # While the first shard is decoded; what cannot be loaded is refused when that is described.
        with suppress(TwoLensError):
            self._describing.try_models()

    def describe(self, number: int, rows: list[Picture | Skipped] | _Refusal) -> int | _Refusal:
        if isinstance(rows, _Refusal):
            return rows
        if not rows:
            return 0

        def written() -> int:
            with ShardWriter(self._workspace).writing() as writer:
                described = self._describing(rows, writer.keep)
                writer.end_shard(partial(write, self._workspace, number, described))
            return described.shard.rows

        return _answered(written)


def make_shards(
    numbers: Iterator[int], work: Work, advance: Callable[[int], object]
) -> dict[int, int]:
    """Make shards on the cluster that ``RAY_ADDRESS`` names, or on this machine.

    Args:
        numbers: Of the shards to make, rising.
        work: What to make them of.
        advance: Is told how many more rows are done.

    Returns:
        Rows of each shard that was made, by number.

    Raises:
        MissingDependencyError: Ray is not installed.
        TwoLensError: What an actor refuses.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("ray", "--executor ray") from error

    ours = not ray.is_initialized()
    if ours:
        place = {"env_vars": {"PYTHONPATH": str(_ROOT)}}
        ray.init(include_dashboard=False, log_to_driver=False, runtime_env=place)
    try:
        return _on_cluster(ray, numbers, work, advance)
    finally:
        if ours:
            ray.shutdown()


def _on_cluster(
    ray: Any,  # noqa: ANN401 - a module
    numbers: Iterator[int],
    work: Work,
    advance: Callable[[int], object],
) -> dict[int, int]:
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    lasting = {"max_restarts": -1, "max_task_retries": _RETRIES}
    describers = _pool(
        ray.remote(_Describer).options(num_cpus=1, num_gpus=1 if gpus else 0, **lasting),
        gpus or max(1, cpus // 2),
        work,
    )
    free = max(1, cpus - len(describers))
    decoders = _pool(
        # Where describers have taken all CPUs, decoders share them.
        ray.remote(_Decoder).options(num_cpus=int(cpus > len(describers)), **lasting),
        min(free, _DECODERS_A_DESCRIBER * len(describers)),
        work,
    )
    made: dict[int, int] = {}
    busy: dict[Any, tuple[int, int]] = {}
    loads = [0] * len(describers)
    ended = False

    def collect() -> None:
        nonlocal ended
        (ready,), _ = ray.wait(list(busy), num_returns=1)
        number, describer = busy.pop(ready)
        loads[describer] -= 1
        rows = ray.get(ready)
        if isinstance(rows, _Refusal):
            raise TwoLensError(rows.sentence)
        if rows:
            made[number] = rows
        advance(rows)
        ended = ended or rows < work.options.shard_size

    for turn, number in enumerate(numbers):
        while len(busy) >= _IN_FLIGHT_A_DESCRIBER * len(describers):
            collect()
        if ended:
            break
        place = loads.index(min(loads))
        rows = decoders[turn % len(decoders)].decode.remote(number)
        busy[describers[place].describe.remote(number, rows)] = number, place
        loads[place] += 1
    while busy:
        collect()
    return made


def _pool(actor: Any, size: int, work: Work) -> list[Any]:  # noqa: ANN401 - Ray's own
    return [actor.remote(work) for _ in range(size)]


def _answered(call: Callable[[], T]) -> T | _Refusal:
    """Return what a call returns, or why it refuses: Ray would rebuild an error otherwise."""
    try:
        return call()
    except TwoLensError as error:
        return _Refusal(str(error))
