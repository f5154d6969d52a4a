"""Training a captioner from the first epoch to the report: measured, stopped early, resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from core.files import write_atomically
from precompute.evaluate.metrics.caption_metrics import bleu4, cider
from precompute.finetune.captions.batches import (
    CaptionBatch,
    Tokens,
    batches_of,
    encoded_images,
    epoch_batches,
    tokenise_captions,
)
from precompute.finetune.captions.recipe import CaptionRecipe, Instruction
from precompute.finetune.shared.loop import Loop, Schedule, decayed, replaced

if TYPE_CHECKING:
    import torch

    from precompute.finetune.captions.start import Prepared
    from precompute.sources.pairs import Pairs

CHECKPOINT = "checkpoint"
METRICS = "metrics.json"

Transform = Callable[[CaptionBatch], CaptionBatch]
"""Changes a batch before it is learnt from."""


@dataclass(frozen=True, slots=True)
class Split:
    """Images of a split as the image tower's blocks leave them, and their captions.

    Attributes:
        features: float16 (images, tokens, width).
        captions: Of each image.
    """

    features: np.ndarray
    captions: Sequence[Sequence[str]]

    @classmethod
    def unseen(cls, captions: Sequence[Sequence[str]]) -> Split:
        """Return captions of images whose features are not looked at."""
        return cls(np.zeros((len(captions), 1, 1), dtype=np.float16), captions)

    def first(self, count: int) -> Split:
        """Return the first images."""
        return Split(self.features[:count], self.captions[:count])


class Job(Loop[list[CaptionBatch]]):
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
        self.files = prepared.files
        self.processes = prepared.accelerator
        self._pairs = pairs
        self._measured = measured
        self._about = identity or {}
        self._say = say if self.processes.is_main_process else lambda _: None
        recipe = self.recipe
        trained = {n: p for n, p in self.objective.named_parameters() if p.requires_grad}
        # Half of an adapter starts as nothing: a share of that alone scales what it adds.
        self._start = {
            name: parameter.detach().clone()
            for name, parameter in trained.items()
            if recipe.start_share and "lora_A" not in name
        }
        batches = batches_of(images or len(pairs), recipe, self.processes.num_processes)
        schedule = Schedule(
            epochs=recipe.epochs,
            steps=math.ceil(batches / recipe.accumulation),
            warmup=recipe.warmup,
            average_decay=recipe.average_decay,
            patience=recipe.patience,
            seed=recipe.seed,
        )
        super().__init__(
            trained,
            decayed(trained.values(), recipe.learning_rate, recipe.weight_decay),
            schedule,
            folder=self.folder / CHECKPOINT,
            identity={
                "recipe": asdict(recipe),
                "data": pairs.fingerprint,
                "model": self.files.origin,
                **self._about,
            },
            accelerator=self.processes,
            log=self.folder / "log",
        )

    def run(self, split: Split | None = None, transform: Transform | None = None) -> dict[str, Any]:
        """Train, measure and write.

        Args:
            split: What to learn from; None is the images and captions of ``pairs``.
            transform: Changes the batches of that.

        Returns:
            BLEU-4 and CIDEr with the number of images and references, how many captions are
            distinct, and the mean length for each prompt; empty where nothing is measured.
        """
        files, history = self.files, self.history
        measured = self.split(self._measured) if self._measured else None
        if measured and files.origin and not history:
            untuned = self._figures(measured)
            self._say(json.dumps({"untuned": untuned}))
            history.append({"epoch": 0, "untuned": untuned})
        report: dict[str, Any] = {}
        if self.recipe.epochs:
            self._learn(split or self.split(self._pairs), transform, measured)
            if self.processes.is_main_process:
                files.finish()
            self.processes.wait_for_everyone()  # nobody reads half a file
            if measured:
                files.read_back(self.objective)
                report = self._figures(measured)
        if self.processes.is_main_process:
            self._write_report(report)
        report = report or (history[0].get("untuned", {}) if history else {})
        self._say(json.dumps(report))
        return report

    def split(self, pairs: Pairs) -> Split:
        """Return a split with the image tower's features, which are computed once."""
        objective = self.objective
        with self.processes.main_process_first():
            features = encoded_images(
                objective.model, objective.processor, pairs, self.folder / "features"
            )
        return Split(features, pairs.captions)

    def learn(
        self,
        features: np.ndarray,
        tokens: Tokens,
        transform: Transform | None = None,
        **how: Any,  # noqa: ANN401
    ) -> list[dict[str, Any]]:
        """Train on what is left of the run and return its history.

        Args:
            features: Of the images.
            tokens: Of their captions.
            transform: See :data:`Transform`.
            how: What is measured, kept and said: see :meth:`Loop.fit`.
        """
        accelerator, recipe = self.processes, self.recipe

        def steps(epoch: int, first: int) -> Iterator[list[CaptionBatch]]:
            batches = epoch_batches(
                features,
                tokens,
                recipe,
                unknown=self.objective.processor.tokenizer.unk_token_id,
                seed=recipe.seed * 1000 + epoch,
                first=first * recipe.accumulation,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
            )
            while group := list(islice(batches, recipe.accumulation)):
                yield group

        def backward(group: list[CaptionBatch]) -> Mapping[str, float]:
            losses = []
            for batch in group:
                learnt = batch if transform is None else transform(batch)
                self.objective.train()
                with accelerator.autocast():
                    loss = self.objective(learnt)
                accelerator.backward(loss / len(group))
                losses.append(loss.item())
            return {"loss": float(np.mean(losses))}

        return self.fit(steps, backward, **how)

    def outcome(self) -> AbstractContextManager[None]:
        """Have in the model meanwhile what is kept of the training.

        That is the average of the weights, and the recipe's share of those it started from
        (WiSE-FT, Wortsman et al. 2022, https://arxiv.org/abs/2109.01903).
        """
        share = self.recipe.start_share
        kept: dict[str, torch.Tensor] = {
            name: average.lerp(self._start[name], share) if name in self._start else average
            for name, average in self.average.items()
        }
        return replaced(self.trained, kept)

    def _learn(self, split: Split, transform: Transform | None, measured: Split | None) -> None:
        tokenizer = self.objective.processor.tokenizer
        tokens = tokenise_captions(tokenizer, split.captions, self.recipe.max_tokens)
        probe = measured.first(self.recipe.probe) if measured else None

        def measure() -> tuple[dict[str, Any], Sequence[float]]:
            assert probe is not None
            with self.outcome():
                texts = self._captions(probe, self.recipe.instructions[0], num_beams=1)
            found = _scores(texts, probe.captions)
            return found, [found["cider"]]

        def keep() -> None:
            if self.processes.is_main_process:
                with self.outcome():
                    self.files.write(self.objective)

        self.learn(
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
            "num_beams": self.files.decoding.num_beams,
            "mean_words": words,
        }

    def _captions(
        self, split: Split, instruction: Instruction, *, num_beams: int | None = None
    ) -> list[str]:
        """Caption a split, each process its share."""
        from accelerate.utils import gather_object

        accelerator, decoding = self.processes, self.files.decoding
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
            **self._about,
            "started_from": self.files.origin,
            "data": {"name": self._pairs.name, "images": len(self._pairs)},
            "validation": {"name": measured.name, **report} if measured else None,
            "history": self.history,
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
