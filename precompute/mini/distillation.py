"""Distil a CLIP image tower into InstructBLIP's: the embedding, and every patch's token.

The teacher sees each image once, as it is; its answers are kept on disk in half precision. The
student sees it as it is or mirrored, and is asked for the same answer, mirrored likewise.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch.nn import functional
from tqdm import tqdm
from transformers import BlipImageProcessor

from core.files import sha256_of, write_atomically
from core.models.clip.lent_tower import as_open_clip
from precompute.finetune.shared.checkpoints import load_checkpoint, save_checkpoint
from precompute.finetune.shared.progress import RunLog, memory_gb
from precompute.mini.clip_onnx import outputs, read_weights
from precompute.mini.distil_recipe import DistilRecipe
from precompute.mini.tower_conversion import instructblip_tower

if TYPE_CHECKING:
    from precompute.finetune.shared.images import Images

SIZE_PX = 224
TOWER_NAME = "image_tower.safetensors"

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_WARM_UP = 20
_SHARPNESS = 20.0
_TEACHER_BATCH = 8
_TYPICAL = 256


class Answers:
    """Images as pixels, and what the teacher says of them, on disk.

    Attributes:
        pixels: uint8 (n, 224, 224, 3).
        embeddings: float32 (n, dim).
        tokens: float16 (n, tokens, width), class token first.
    """

    def __init__(self, images: Images, teacher: Path, folder: Path, device: str = "cpu") -> None:
        """Open the answers; ask the teacher, on a torch device, unless that was done."""
        key = f"{images.fingerprint}-{sha256_of(teacher)[:16]}"
        paths = [folder / f"{name}-{key}.npy" for name in ("pixels", "embeddings", "tokens")]
        done = folder / f"done-{key}"
        if not done.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            self._ask(images, teacher, paths, device)
            write_atomically(done, b"")
        self.pixels, self.embeddings, self.tokens = (np.load(p, mmap_mode="r") for p in paths)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    @staticmethod
    def _ask(images: Images, teacher: Path, paths: list[Path], device: str) -> None:
        count = len(images)
        shape = (count, SIZE_PX, SIZE_PX, 3)
        pixels = np.lib.format.open_memmap(paths[0], "w+", np.uint8, shape)
        for row in tqdm(range(count), desc="images", unit="image"):
            # Squashed, as mini-clip's images are: nothing of a photo is lost at its edges.
            squashed = images.image(row).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
            pixels[row] = np.asarray(squashed)
        kept: list[np.memmap] = []
        starts = tqdm(range(0, count, _TEACHER_BATCH), desc="teacher", unit="batch")
        batches = (normalised(pixels[start : start + _TEACHER_BATCH]) for start in starts)
        done = 0
        for embeddings, tokens in outputs(teacher, batches, device):
            if not kept:
                kept = [
                    np.lib.format.open_memmap(path, "w+", kind, (count, *answer.shape[1:]))
                    for path, kind, answer in zip(
                        paths[1:], (np.float32, np.float16), (embeddings, tokens), strict=True
                    )
                ]
            for array, answer in zip(kept, (embeddings, tokens), strict=True):
                array[done : done + len(answer)] = answer
            done += len(embeddings)
        for array in (pixels, *kept):
            array.flush()


def normalised(pixels: np.ndarray) -> torch.Tensor:
    """Turn uint8 (n, height, width, 3) into CLIP's float32 (n, 3, height, width)."""
    scaled = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 255
    shape = (3, 1, 1)
    return (scaled - torch.tensor(_MEAN).view(shape)) / torch.tensor(_DEVIATION).view(shape)


class Student(torch.nn.Module):
    """InstructBLIP's image tower and the projection into the teacher's space."""

    def __init__(self, teacher: Path, pixels: torch.Tensor, recipe: DistilRecipe) -> None:
        """Start as the teacher's copy."""
        super().__init__()
        weights = read_weights(teacher)
        self.tower = instructblip_tower(
            weights, pixels, patch_size=recipe.patch_size, without=recipe.without
        )
        self.projection = torch.nn.Linear(*weights["visual_projection.weight"].T.shape, bias=False)
        self.projection.weight.data = torch.tensor(weights["visual_projection.weight"])

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embedding (n, dim) and the patches' tokens before the last layer norm."""
        hidden = self.tower.embeddings(pixels)
        for block in self.tower.encoder.layers:
            hidden = block(hidden)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        embedding = self.projection(self.tower.post_layernorm(hidden[:, 0]))
        return embedding, hidden[:, 1:]


def distil(
    images: Images,
    measured: Images | None,
    teacher: Path,
    out: Path,
    recipe: DistilRecipe,
    *,
    device: str = "cpu",
    save_every: int = 150,
    say: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Train a student and write it to ``out``.

    Args:
        images: To learn on; the mean of their embeddings is the centre.
        measured: Held out; the likeness to the teacher is measured on them.
        teacher: ONNX export of a CLIP image tower.
        out: Gets ``config.json`` and ``model.safetensors`` of an ``InstructBlipVisionModel``,
            ``image_tower.safetensors`` for open_clip, ``metrics.json``, and in ``work`` the
            teacher's answers and the checkpoint.
        recipe: Everything that decides the result.
        device: A torch device.
        save_every: Steps between checkpoints.
        say: Gets one line at each.

    Returns:
        The content of ``metrics.json``; ``likeness`` is the mean cosine of centred embeddings.

    Raises:
        SourceError: The teacher's file holds no such tower, or ``out`` another run.
        MissingDependencyError: ``onnx`` is not installed.
    """
    torch.manual_seed(recipe.seed)
    known = Answers(images, teacher, out / "work", device)
    held_out = Answers(measured, teacher, out / "work", device) if measured else None
    student = Student(teacher, normalised(known.pixels[:_TYPICAL]), recipe).to(device)
    training = _Training(student, known, recipe, device)
    steps = round(recipe.epochs * len(known) / recipe.batch_size)
    path = out / "work" / "checkpoint.safetensors"
    identity = asdict(recipe) | {"images": images.fingerprint, "teacher": sha256_of(teacher)}
    state = {"tensors": training.tensors(), "optimizer": training.optimizer}
    done = (load_checkpoint(path, recipe=identity, **state) or {"step": 0})["step"]
    log, started = RunLog(out / "log", done), time.monotonic()
    bar = tqdm(training.batches(done, steps), initial=done, total=steps, unit="batch")
    for step, (pixels, wanted, tokens) in enumerate(bar, start=done + 1):
        figures = training.step(pixels, wanted, tokens, step, steps)
        rate = (step - done) * recipe.batch_size / (time.monotonic() - started)
        bar.set_postfix_str(
            f"cosine {figures['cosine']:.3f}, {rate:.1f} images/s, "
            f"{memory_gb(torch.device(device)):.1f} GB"
        )
        log.write({f"train/{name}": value for name, value in figures.items()}, step)
        if step % save_every == 0:
            save_checkpoint(path, progress={"step": step}, recipe=identity, **state)
            say(f"step {step} of {steps}: likeness {training.likeness(held_out):.3f}")
    log.close()
    training.keep_average()
    report = {
        "likeness": training.likeness(held_out),
        "images": len(known),
        "steps": steps,
        "recipe": asdict(recipe),
    }
    write_student(student.cpu(), normalised(known.pixels[:_TYPICAL]), out, report)
    return report


class _Training:
    """One student's optimiser, average and batches."""

    def __init__(self, student: Student, known: Answers, recipe: DistilRecipe, device: str) -> None:
        self._student = student
        self._known = known
        self._recipe = recipe
        self._device = device
        matrices = [p for p in student.parameters() if p.ndim > 1]
        others = [p for p in student.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
        )
        self._average = {name: p.detach().clone() for name, p in student.named_parameters()}
        embeddings = functional.normalize(torch.from_numpy(np.array(known.embeddings)), dim=-1)
        self._centre = embeddings.mean(dim=0).to(device)
        sample = torch.from_numpy(known.tokens[:: max(1, len(known) // 150)].astype(np.float32))
        flat = sample[:, 1:].flatten(0, 1)
        self._token_mean, self._token_scale = (
            value.to(device) for value in (flat.mean(dim=0), flat.std(dim=0) + 1e-3)
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint holds: weights and their average."""
        averages = {f"average.{name}": value for name, value in self._average.items()}
        return dict(self._student.named_parameters()) | averages

    def batches(
        self, done: int, steps: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield pixels, embeddings and tokens of every step that is left."""
        count, size = len(self._known), self._recipe.batch_size
        for step in range(done, steps):
            rows = []
            for place in range(step * size, (step + 1) * size):
                epoch, inner = divmod(place, count)
                rows.append(_order(self._recipe.seed, epoch, count)[inner])
            mirrored = np.random.default_rng([self._recipe.seed, step]).random(size) < 0.5
            side = SIZE_PX // self._recipe.patch_size
            pixels, tokens = [], []
            for row, mirror in zip(rows, mirrored, strict=True):
                seen, said = self._known.pixels[row], self._known.tokens[row, 1:]
                old = round(len(said) ** 0.5)
                grid = said.reshape(old, old, -1)
                pixels.append(seen[:, ::-1] if mirror else seen)
                tokens.append(grid[:, ::-1] if mirror else grid)
            grids = torch.from_numpy(np.stack(tokens).astype(np.float32)).permute(0, 3, 1, 2)
            pooled = functional.adaptive_avg_pool2d(grids, side).flatten(2).transpose(1, 2)
            answers = torch.from_numpy(self._known.embeddings[rows])
            yield (
                normalised(np.stack(pixels)).to(self._device),
                self._centred(answers.to(self._device)),
                ((pooled.to(self._device)) - self._token_mean) / self._token_scale,
            )

    def step(
        self,
        pixels: torch.Tensor,
        wanted: torch.Tensor,
        wanted_tokens: torch.Tensor,
        step: int,
        steps: int,
    ) -> dict[str, float]:
        """Learn from one batch."""
        for group in self.optimizer.param_groups:
            cosine = 0.5 * (1 + np.cos(np.pi * (step - 1) / steps)) + 0.01
            group["lr"] = self._recipe.learning_rate * min(1.0, step / _WARM_UP) * cosine
        self._student.train()
        embeddings, tokens = self._student(pixels)
        embeddings = self._centred(embeddings)
        cosine = (embeddings * wanted).sum(dim=-1).mean()
        structure = functional.kl_div(
            functional.log_softmax(embeddings @ wanted.T * _SHARPNESS, dim=-1),
            functional.softmax(wanted @ wanted.T * _SHARPNESS, dim=-1),
            reduction="batchmean",
        )
        scaled = (tokens - self._token_mean) / self._token_scale
        patches = functional.smooth_l1_loss(scaled, wanted_tokens)
        loss = 1 - cosine + self._recipe.structure * structure + self._recipe.tokens * patches
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._student.parameters(), 1.0)
        self.optimizer.step()
        kept = min(self._recipe.average, step / (step + 20))
        with torch.no_grad():
            for name, parameter in self._student.named_parameters():
                self._average[name].lerp_(parameter, 1 - kept)
        return {"cosine": cosine.item(), "structure": structure.item(), "tokens": patches.item()}

    def likeness(self, held_out: Answers | None) -> float | None:
        """Return the mean cosine of centred embeddings to the teacher's; None without images."""
        if held_out is None:
            return None
        self._student.eval()
        found = []
        with torch.inference_mode():
            for start in range(0, len(held_out), self._recipe.batch_size):
                rows = slice(start, start + self._recipe.batch_size)
                embeddings, _ = self._student(normalised(held_out.pixels[rows]).to(self._device))
                answers = torch.from_numpy(np.array(held_out.embeddings[rows])).to(self._device)
                found.append((self._centred(embeddings) * self._centred(answers)).sum(dim=-1))
        return float(torch.cat(found).mean())

    def keep_average(self) -> None:
        """Put the averaged weights in the place of the last ones."""
        with torch.no_grad():
            for name, parameter in self._student.named_parameters():
                parameter.copy_(self._average[name])

    def _centred(self, embeddings: torch.Tensor) -> torch.Tensor:
        unit = functional.normalize(embeddings, dim=-1)
        return functional.normalize(unit - self._centre, dim=-1)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def write_student(
    student: Student, pixels: torch.Tensor, out: Path, report: dict[str, Any]
) -> None:
    """Write the tower for a captioner, and with its projection for open_clip.

    For open_clip the mean embedding of typical images is taken off, by the bias of the last layer
    norm: what all embeddings share says nothing, and hides differences from a cosine.

    Args:
        student: On the CPU.
        pixels: float32 (n, 3, size, size), the typical images, normalised.
        out: Gets the files that :func:`distil` names.
        report: Becomes ``metrics.json``.
    """
    student.eval()
    with torch.inference_mode():
        mean = student(pixels)[0].mean(dim=0)
    projection = student.projection.weight.detach()
    tower = as_open_clip(student.tower.state_dict()) | {"proj": projection.T}
    tower["ln_post.bias"] = tower["ln_post.bias"] - torch.linalg.pinv(projection) @ mean
    halves = {name: tensor.detach().half().contiguous() for name, tensor in tower.items()}
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / TOWER_NAME, save(halves))
    student.tower.half().save_pretrained(out)
    BlipImageProcessor(
        size={"height": SIZE_PX, "width": SIZE_PX}, image_mean=_MEAN, image_std=_DEVIATION
    ).save_pretrained(out)
    write_atomically(out / "metrics.json", (json.dumps(report, indent=2) + "\n").encode())
