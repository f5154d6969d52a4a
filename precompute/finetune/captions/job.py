"""Training a captioner from the first epoch to the report: measured, stopped early, resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.files import write_atomically
from precompute.evaluate.metrics import bleu4, cider
from precompute.finetune.captions.batches import (
    CaptionBatch,
    Features,
    cached_features,
    tokenise_captions,
)
from precompute.finetune.captions.checkpoint import resume_training, save_training
from precompute.finetune.captions.recipe import CaptionRecipe, Instruction, RewardRecipe
from precompute.finetune.captions.self_critical import SelfCritic
from precompute.finetune.shared.embeddings import Meanings
from precompute.finetune.shared.progress import RunLog
from precompute.mini.looking import MeaningReader, learn_to_look, read_sights

if TYPE_CHECKING:
    from precompute.finetune.captions.start import Prepared
    from precompute.finetune.shared.data import Pairs

CHECKPOINT = "checkpoint"
LOOKING = "looking.safetensors"
METRICS = "metrics.json"


@dataclass(frozen=True, slots=True)
class Course:
    """What a training does beside learning.

    Attributes:
        patience: Epochs without a better CIDEr after which it ends; None never ends it early.
        probed: Validation images after each epoch, captioned greedily; the end is measured on all.
        save_every: Batches after which progress is kept, beside the end of each epoch.
        features: Folder for the frozen blocks' output; None puts it into the run's own.
        meanings: What a fresh captioner learnt from, to go on with it; None learns to look first.
        say: Receives a line for the operator now and then.
    """

    patience: int | None = None
    probed: int = 300
    save_every: int = 500
    features: Path | None = None
    meanings: Path | None = None
    say: Callable[[str], object] = lambda _: None


@dataclass(frozen=True, slots=True)
class _Split:
    features: Features
    captions: Sequence[Sequence[str]]

    def first(self, count: int) -> _Split:
        return _Split(self.features.first(count), self.captions[:count])


def check_metrics() -> None:
    """Raise MissingDependencyError now rather than after an epoch."""
    _scores(["a dog"], [["a dog"]])


def train(
    prepared: Prepared,
    pairs: Pairs,
    measured: Pairs | None,
    course: Course = Course(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Train, write the best checkpoint, and measure it; or only measure, with no epochs.

    Beside the model the run's folder gets ``metrics.json``, and while training ``checkpoint/``,
    ``features/`` and ``log/`` for TensorBoard.

    Args:
        prepared: What is trained, and where it is written. A checkpoint is measured first.
        pairs: Images with captions to train on.
        measured: Where to measure; None keeps the last epoch.
        course: The rest.

    Returns:
        BLEU-4 and CIDEr with the number of images and references, how many captions are distinct,
        and the mean length for each prompt; an empty mapping without ``measured``.

    Raises:
        SourceError: The folder holds the checkpoint of another run.
    """
    return _Job(prepared, pairs, measured, course).run()


class _Job:
    def __init__(
        self, prepared: Prepared, pairs: Pairs, measured: Pairs | None, course: Course
    ) -> None:
        self._training = prepared.training
        self._recipe: CaptionRecipe = self._training.recipe
        self._files = prepared.files
        self._decoding = prepared.decoding
        self._started_from = prepared.started_from
        self._pairs = pairs
        self._measured = measured
        self._course = course
        self._main = self._training.accelerator.is_main_process
        self._run = {"data": pairs.fingerprint, "model": self._started_from}
        self._history: list[dict[str, Any]] = []
        self._judged_by = "reward" if self._recipe.reward else "cider"

    def run(self) -> dict[str, Any]:
        out, training, recipe = self._files.folder, self._training, self._recipe
        self._history = resume_training(training, out / CHECKPOINT, self._run)
        probe = self._split(self._measured) if self._measured else None
        if probe and self._started_from and not self._history:
            untuned = self._figures(probe)
            self._say({"untuned": untuned})
            self._history.append({"epoch": 0, "untuned": untuned})
        if recipe.epochs:
            self._learn(probe)
            if self._main:
                self._files.finish()
        report: dict[str, Any] = {}
        if probe and recipe.epochs:
            # Others than the main process do not write, and must not read half a file.
            training.accelerator.wait_for_everyone()
            self._files.read_back(training)
            report = self._figures(probe)
        if self._main:
            self._write_report(report)
        return report or (self._history[0].get("untuned", {}) if self._history else {})

    def _learn(self, probe: _Split | None) -> None:
        training, recipe, course = self._training, self._recipe, self._course
        if course.meanings is None:
            split = self._split(self._pairs, recipe.views)
        else:
            split = _Split(Features.unseen(len(self._pairs)), self._pairs.captions)
        tokenizer = training.objective.processor.tokenizer
        tokens = tokenise_captions(tokenizer, split.captions, recipe.max_tokens)
        reward = recipe.reward
        critic: Callable[[CaptionBatch], CaptionBatch] | None = None
        judge = None
        if recipe.looking is not None:
            counts = [len(own) for own in split.captions]
            if course.meanings is not None:
                sights = read_sights(course.meanings, sum(counts))
            else:
                kept = self._files.folder / CHECKPOINT / LOOKING
                sights = learn_to_look(training.objective, split.features, split.captions, kept)
            critic = MeaningReader(sights, counts, recipe.looking)
        if reward is not None:
            meanings = Meanings.read(split.captions) if reward.retrieval else None
            critic = SelfCritic(training.objective, reward, split.captions, meanings)
            judge = self._judge(probe, reward)
        if self._main:
            training.log = RunLog(self._files.folder / "log", training.step)
        while True:
            # An epoch is dear: it is saved before it is measured, and measured after a kill.
            if self._history and "loss" in self._history[-1] and "best" not in self._history[-1]:
                self._finish_epoch(probe, judge)
            if training.epoch >= recipe.epochs or self._waited() >= (course.patience or 1 << 30):
                break
            loss = training.run_epoch(
                split.features,
                tokens,
                critic=critic,
                save=self._save,
                save_every=course.save_every,
            )
            self._history.append({"epoch": training.epoch, "loss": round(loss, 4)})
            self._save()
        if training.log is not None:
            training.log.close()

    def _judge(self, probe: _Split | None, reward: RewardRecipe) -> SelfCritic | None:
        if probe is None:
            return None
        captions = probe.first(self._course.probed).captions
        meanings = Meanings.read(captions) if reward.retrieval else None
        return SelfCritic(self._training.objective, reward, captions, meanings)

    def _finish_epoch(self, probe: _Split | None, judge: SelfCritic | None) -> None:
        """Measure what would be kept, and write it if nothing was better."""
        last = self._history[-1]
        if probe is not None:
            some = probe.first(self._course.probed)
            with self._training.outcome():
                texts = self._captions(some, self._recipe.instructions[0], num_beams=1)
            last |= _scores(texts, some.captions)
            if judge is not None:
                rewards = judge.rewards(texts, np.arange(len(texts)), self._recipe.instructions[0])
                last["reward"] = round(float(rewards.mean()), 4)
        by = self._judged_by
        earlier = [entry[by] for entry in self._history[:-1] if "best" in entry and probe]
        last["best"] = not earlier or last[by] > max(earlier)
        if last["best"]:
            self._files.write(self._training)
        if self._training.log is not None and probe is not None:
            names = ("bleu4", "cider", *([] if judge is None else ["reward"]))
            scores = {f"validation/{name}": last[name] for name in names}
            self._training.log.write(scores, self._training.step)
        self._say(last)
        self._save()

    def _waited(self) -> int:
        """Return for how many epochs none has been the best."""
        waited = 0
        for entry in reversed(self._history):
            if entry.get("best", True):
                break
            waited += 1
        return waited

    def _figures(self, split: _Split) -> dict[str, Any]:
        """Measure the weights in the model as they will be used: every image, the whole search."""
        first, *others = self._recipe.instructions
        texts = self._captions(split, first)
        words = {first.text: _mean_words(texts)}
        some = split.first(self._course.probed)
        for instruction in others:
            words[instruction.text] = _mean_words(self._captions(some, instruction, num_beams=1))
        return {
            **_scores(texts, split.captions),
            "images": len(texts),
            "references": sum(map(len, split.captions)),
            "distinct_captions": len(set(texts)),
            "num_beams": self._decoding.num_beams,
            "mean_words": words,
        }

    def _captions(
        self, split: _Split, instruction: Instruction, *, num_beams: int | None = None
    ) -> list[str]:
        """Caption a split, each process its share."""
        from accelerate.utils import gather_object

        accelerator = self._training.accelerator
        world, rank = accelerator.num_processes, accelerator.process_index
        own = replace(split.features, rows=split.features.rows[rank::world])
        with accelerator.autocast():
            texts = self._training.objective.captions(
                own, instruction, self._decoding, num_beams=num_beams
            )
        if world == 1:
            return texts
        numbered = zip(range(rank, len(split.captions), world), texts, strict=True)
        return [text for _, text in sorted(gather_object(list(numbered)))]

    def _split(self, pairs: Pairs, views: int = 1) -> _Split:
        objective = self._training.objective
        folder = self._course.features or self._files.folder / "features"
        with self._training.accelerator.main_process_first():
            features = cached_features(
                objective.model,
                objective.processor,
                pairs,
                frozen_layers=self._recipe.frozen_layers,
                folder=folder,
                views=views,
                seed=self._recipe.seed,
            )
        return _Split(features, pairs.captions)

    def _save(self) -> None:
        save_training(self._training, self._files.folder / CHECKPOINT, self._run, self._history)

    def _say(self, line: dict[str, Any]) -> None:
        if self._main:
            self._course.say(json.dumps(line))

    def _write_report(self, report: dict[str, Any]) -> None:
        measured = self._measured
        content = {
            "recipe": asdict(self._recipe),
            "started_from": self._started_from,
            "data": {"name": self._pairs.name, "images": len(self._pairs)},
            "validation": {"name": measured.name, **report} if measured else None,
            "history": self._history,
        }
        text = json.dumps(content, indent=2) + "\n"
        self._files.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._files.folder / METRICS, text.encode())


def _scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    return {
        "bleu4": round(bleu4(texts, references), 2),
        "cider": round(cider(texts, references), 4),
    }


def _mean_words(texts: Sequence[str]) -> float:
    return round(float(np.mean([len(text.split()) for text in texts])), 1)
