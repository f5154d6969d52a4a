"""Training a captioner from the first epoch to the report: measured, stopped early, resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from core.files import write_atomically
from precompute.evaluate.metrics.caption_metrics import bleu4, cider
from precompute.finetune.captions.batches import encoded_images, tokenise_captions
from precompute.finetune.captions.recipe import CaptionRecipe, Instruction
from precompute.finetune.captions.training import CaptionTraining, Transform

if TYPE_CHECKING:
    from precompute.finetune.captions.start import Prepared
    from precompute.sources.pairs import Pairs

CHECKPOINT = "checkpoint"
METRICS = "metrics.json"


@dataclass(frozen=True, slots=True)
class Split:
    """Images of a split as the image tower's blocks leave them, and their captions.

    Attributes:
        features: float16 (images, tokens, width).
        captions: Of each image.
    """

    features: np.ndarray
    captions: Sequence[Sequence[str]]

    def first(self, count: int) -> Split:
        """Return the first images."""
        return Split(self.features[:count], self.captions[:count])


class Job:
    """Trains, writes the best checkpoint and ``metrics.json``; or only measures, with no epochs.

    Args:
        prepared: What is trained, and where it is written. A checkpoint is measured first.
        pairs: Images with captions to train on.
        measured: Where to measure; None keeps the last epoch.
        images: Number of what is learnt from, if not that of ``pairs``.
        identity: What else makes a run another one; JSON values.
        say: Receives a line for the operator now and then.

    Raises:
        SourceError: The folder holds the checkpoint of another run.
    """

    def __init__(
        self,
        prepared: Prepared,
        pairs: Pairs,
        measured: Pairs | None,
        *,
        images: int | None = None,
        identity: Mapping[str, Any] | None = None,
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Take up what an earlier run left."""
        if measured:  # a library that is missing is missed now rather than after an epoch
            _scores(["a dog"], [["a dog"]])
        self.objective = prepared.objective
        self.recipe: CaptionRecipe = prepared.objective.recipe
        self.folder = prepared.files.folder
        self._prepared = prepared
        self._pairs = pairs
        self._measured = measured
        self._identity = identity or {}
        self._say = say if prepared.accelerator.is_main_process else lambda _: None
        self._training = CaptionTraining(
            prepared.objective,
            images or len(pairs),
            prepared.accelerator,
            self.folder / CHECKPOINT,
            {
                "recipe": asdict(self.recipe),
                "data": pairs.fingerprint,
                "model": prepared.files.origin,
                **self._identity,
            },
            self.folder / "log",
        )

    @property
    def writes(self) -> bool:
        """Whether this process writes files; of several one does."""
        return bool(self._prepared.accelerator.is_main_process)

    def run(self, split: Split | None = None, transform: Transform | None = None) -> dict[str, Any]:
        """Train, measure and write.

        Args:
            split: What to learn from; None is the images and captions of ``pairs``.
            transform: Changes the batches of that.

        Returns:
            BLEU-4 and CIDEr with the number of images and references, how many captions are
            distinct, and the mean length for each prompt; empty where nothing is measured.
        """
        files, history = self._prepared.files, self._training.history
        measured = self.split(self._measured) if self._measured else None
        if measured and files.origin and not history:
            untuned = self._figures(measured)
            self._say(json.dumps({"untuned": untuned}))
            history.append({"epoch": 0, "untuned": untuned})
        report: dict[str, Any] = {}
        if self.recipe.epochs:
            self._learn(split or self.split(self._pairs), transform, measured)
            if self.writes:
                files.finish()
            self._prepared.accelerator.wait_for_everyone()  # nobody reads half a file
            if measured:
                files.read_back(self.objective)
                report = self._figures(measured)
        if self.writes:
            self._write_report(report)
        report = report or (history[0].get("untuned", {}) if history else {})
        self._say(json.dumps(report))
        return report

    def split(self, pairs: Pairs) -> Split:
        """Return a split with the image tower's features, which are computed once."""
        objective = self.objective
        with self._prepared.accelerator.main_process_first():
            features = encoded_images(
                objective.model, objective.processor, pairs, self.folder / "features"
            )
        return Split(features, pairs.captions)

    def _learn(self, split: Split, transform: Transform | None, measured: Split | None) -> None:
        tokenizer = self.objective.processor.tokenizer
        tokens = tokenise_captions(tokenizer, split.captions, self.recipe.max_tokens)
        probe = measured.first(self.recipe.probe) if measured else None

        def measure() -> tuple[dict[str, Any], Sequence[float]]:
            assert probe is not None
            with self._training.outcome():
                texts = self._captions(probe, self.recipe.instructions[0], num_beams=1)
            found = _scores(texts, probe.captions)
            return found, [found["cider"]]

        def keep() -> None:
            if self.writes:
                with self._training.outcome():
                    self._prepared.files.write(self.objective)

        self._training.learn(
            split.features,
            tokens,
            transform,
            measure=measure if probe else None,
            keep=keep,
            say=lambda line: self._say(json.dumps(line)),
        )

    def _figures(self, split: Split) -> dict[str, Any]:
        """Measure the weights in the model as they will be used: every image, the whole search."""
        first, *others = self.recipe.instructions
        texts = self._captions(split, first)
        words = {first.text: _mean_words(texts)}
        some = split.first(self.recipe.probe)
        for instruction in others:
            words[instruction.text] = _mean_words(self._captions(some, instruction, num_beams=1))
        return {
            **_scores(texts, split.captions),
            "images": len(texts),
            "references": sum(map(len, split.captions)),
            "distinct_captions": len(set(texts)),
            "num_beams": self._prepared.files.decoding.num_beams,
            "mean_words": words,
        }

    def _captions(
        self, split: Split, instruction: Instruction, *, num_beams: int | None = None
    ) -> list[str]:
        """Caption a split, each process its share."""
        from accelerate.utils import gather_object

        accelerator, decoding = self._prepared.accelerator, self._prepared.files.decoding
        world, rank = accelerator.num_processes, accelerator.process_index
        own = split.features[rank::world]
        with accelerator.autocast():
            texts = self.objective.captions(own, instruction, decoding, num_beams=num_beams)
        if world == 1:
            return texts
        numbered = zip(range(rank, len(split.captions), world), texts, strict=True)
        return [text for _, text in sorted(gather_object(list(numbered)))]

    def _write_report(self, report: dict[str, Any]) -> None:
        measured = self._measured
        content = {
            "recipe": asdict(self.recipe),
            **self._identity,
            "started_from": self._prepared.files.origin,
            "data": {"name": self._pairs.name, "images": len(self._pairs)},
            "validation": {"name": measured.name, **report} if measured else None,
            "history": self._training.history,
        }
        text = json.dumps(content, indent=2) + "\n"
        write_atomically(self.folder / METRICS, text.encode())


def _scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    return {
        "bleu4": round(bleu4(texts, references), 2),
        "cider": round(cider(texts, references), 4),
    }


def _mean_words(texts: Sequence[str]) -> float:
    return round(float(np.mean([len(text.split()) for text in texts])), 1)
