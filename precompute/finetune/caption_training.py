"""The training loop of a captioner: loss, schedule, average of weights, checkpoints, validation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.decoding import Decoding
from core.errors import SourceError
from core.files import write_atomically
from precompute.finetune.caption_batches import CaptionBatch, epoch_batches
from precompute.finetune.caption_recipe import CaptionRecipe
from precompute.metrics import bleu4

if TYPE_CHECKING:
    import torch

_STATE = "state.json"
_VALIDATION_BATCH = 100
_SHARPNESS = 20.0
"""Factor on the cosines of the grounding loss: an inverse temperature."""

_PARTS = 5
"""Captions of a batch are decoded in so many groups of like length, each padded for itself."""


@dataclass(frozen=True, slots=True)
class Split:
    """One split, ready to train on or to be measured on.

    Attributes:
        features: float16 (n, tokens, width), see ``cached_features``.
        captions: Reference captions of each image.
        meanings: float32 (n, dim), unit norm: what each image's captions mean together; needed
            for training with the grounding loss only.
    """

    features: np.ndarray
    captions: Sequence[Sequence[str]]
    meanings: np.ndarray | None = None

    def first(self, count: int) -> Split:
        """Return the split's first images."""
        return Split(self.features[:count], self.captions[:count])


class CaptionTraining:
    """Trains one model on one recipe, and can stop and resume at the end of any epoch.

    Args:
        model: ``InstructBlipForConditionalGeneration``, on its device.
        processor: Its processor; the two tokenizers may differ.
        recipe: How to train.
        prompts: Instructions, one of which is drawn for each batch.
        decoding: For validation.
        meaning_dim: Length of the meanings, for the grounding loss.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - imported lazily
        processor: Any,  # noqa: ANN401
        recipe: CaptionRecipe,
        prompts: Sequence[str],
        decoding: Decoding,
        meaning_dim: int = 384,
    ) -> None:
        """Freeze what is frozen and make the optimiser."""
        import torch

        self.model = model
        self.recipe = recipe
        self.decoding = decoding
        self.processor = processor
        self.device = next(model.parameters()).device
        self.prompts = [
            (
                processor.qformer_tokenizer(prompt, return_tensors="pt")["input_ids"],
                processor.tokenizer(prompt, return_tensors="pt")["input_ids"],
            )
            for prompt in prompts
        ]
        self._freeze()
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if recipe.grounding:
            width = model.config.qformer_config.hidden_size
            self.grounding = torch.nn.Linear(width, meaning_dim, device=self.device)
            self.trained |= {f"grounding.{n}": p for n, p in self.grounding.named_parameters()}
        self.average = {n: p.detach().clone() for n, p in self.trained.items()}
        self.optimizer = torch.optim.AdamW(self._groups(), betas=(0.9, 0.98))
        self.epoch = 0
        self.step = 0
        self.best = -1.0

    def _freeze(self) -> None:
        tower = self.model.vision_model
        for module in (tower.embeddings, *tower.encoder.layers[: self.recipe.frozen_layers]):
            module.requires_grad_(False)

    def _groups(self) -> list[dict[str, Any]]:
        groups = []
        for vision in (False, True):
            for decayed in (False, True):
                members = [
                    parameter
                    for name, parameter in self.trained.items()
                    if name.startswith("vision_model.encoder") == vision
                    and (parameter.ndim > 1) == decayed
                ]
                peak = self.recipe.vision_learning_rate if vision else self.recipe.learning_rate
                decay = self.recipe.weight_decay if decayed else 0.0
                groups.append({"params": members, "peak": peak, "weight_decay": decay})
        return groups

    def encode(self, features: torch.Tensor, prompt: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the language model's encoder, and the Q-Former, make of images and a prompt.

        The same computation as the model's own ``forward`` up to there, entered behind the frozen
        blocks: (images, queries + prompt tokens, width) and (images, queries, width).
        """
        import torch

        model = self.model
        qformer_ids, language_ids = (
            ids.to(self.device).expand(len(features), -1) for ids in self.prompts[prompt]
        )
        hidden = features
        for block in model.vision_model.encoder.layers[self.recipe.frozen_layers :]:
            hidden = block(hidden)
        hidden = model.vision_model.post_layernorm(hidden)
        queries = model.query_tokens.expand(len(features), -1, -1)
        seen = model.qformer(
            input_ids=qformer_ids, query_embeds=queries, encoder_hidden_states=hidden
        )[0][:, : queries.shape[1]]
        words = model.get_input_embeddings()(language_ids)
        sequence = torch.cat([model.language_projection(seen), words], dim=1)
        return model.language_model.encoder(inputs_embeds=sequence)[0], seen

    def loss(
        self, batch: CaptionBatch, prompt: int, meanings: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the cross entropy of every caption, each image encoded once.

        With ``meanings``, the grounding loss is added: from the mean of the Q-Former's queries,
        pick the image's meaning among those of all images. It teaches the fresh Q-Former to look,
        as BLIP-2's first stage does, while the language model is still learning to speak.
        """
        import torch

        encoded, seen = self.encode(batch.features.to(self.device), prompt)
        start = self.model.config.text_config.decoder_start_token_id
        unknown = self.processor.tokenizer.unk_token_id
        total = encoded.new_zeros(())
        parts = zip(batch.image_of_caption.chunk(_PARTS), batch.labels.chunk(_PARTS), strict=True)
        for owners, padded in parts:
            longest = int((padded != -100).nonzero()[:, 1].max()) + 1
            labels = padded[:, :longest].to(self.device)
            hidden = torch.rand(labels.shape, device=self.device) < self.recipe.word_dropout
            inputs = labels.masked_fill((labels == -100) | hidden, unknown)
            inputs = torch.cat([torch.full_like(inputs[:, :1], start), inputs[:, :-1]], dim=1)
            logits = self.model.language_model(
                encoder_outputs=(encoded[owners.to(self.device)],), decoder_input_ids=inputs
            ).logits
            total = total + torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(),
                labels.flatten(),
                label_smoothing=self.recipe.label_smoothing,
                reduction="sum",
            )
        loss = total / (batch.labels != -100).sum().to(self.device)
        if meanings is None:
            return loss
        found = torch.nn.functional.normalize(self.grounding(seen.mean(dim=1)), dim=1)
        chosen = torch.nn.functional.cross_entropy(
            _SHARPNESS * found @ meanings.T, batch.rows.to(self.device)
        )
        return loss + self.recipe.grounding * chosen

    def run_epoch(self, split: Split, tokens: Sequence[Sequence[Sequence[int]]]) -> float:
        """Train on every image once and return the mean loss."""
        import torch
        from tqdm import tqdm

        recipe = self.recipe
        # Seeded anew each epoch, so that a resumed training takes the same course.
        seed = recipe.seed * 1000 + self.epoch
        torch.manual_seed(seed)
        prompts = np.random.default_rng(seed)
        batches = math.ceil(len(tokens) / recipe.batch_size)
        total = batches * recipe.epochs
        losses = []
        meanings = None
        if recipe.grounding and split.meanings is not None:
            meanings = torch.from_numpy(split.meanings).to(self.device)
        self.model.train()
        with tqdm(total=len(tokens), desc=f"epoch {self.epoch + 1}", unit="img") as progress:
            for batch in epoch_batches(
                split.features,
                tokens,
                batch_size=recipe.batch_size,
                unknown=self.processor.tokenizer.unk_token_id,
                seed=seed,
            ):
                for group in self.optimizer.param_groups:
                    group["lr"] = group["peak"] * _schedule(self.step / total, recipe.warmup)
                with torch.autocast(
                    self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"
                ):
                    drawn = int(prompts.integers(len(self.prompts)))
                    loss = self.loss(batch, drawn, meanings)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
                self.optimizer.step()
                self._update_average()
                self.step += 1
                losses.append(loss.item())
                progress.update(len(batch.features))
                progress.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
        self.epoch += 1
        return float(np.mean(losses))

    def _update_average(self) -> None:
        import torch

        # A young average follows closely, or it would remember the random start.
        decay = min(self.recipe.average_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.values()), list(self.trained.values()), 1 - decay
            )

    def swap_average(self) -> None:
        """Exchange the weights and their average; twice is nothing."""
        import torch

        with torch.no_grad():
            for name, parameter in self.trained.items():
                kept = parameter.detach().clone()
                parameter.copy_(self.average[name])
                self.average[name].copy_(kept)

    def captions(self, features: np.ndarray, *, num_beams: int | None = None) -> list[str]:
        """Caption images from their cached features, with the first prompt."""
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        self.model.eval()
        texts: list[str] = []
        for start in range(0, len(features), _VALIDATION_BATCH):
            rows = torch.tensor(features[start : start + _VALIDATION_BATCH]).float()
            with torch.inference_mode():
                encoded, _ = self.encode(rows.to(self.device), 0)
                tokens = self.model.language_model.generate(
                    encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
                    do_sample=False,
                    num_beams=num_beams or self.decoding.num_beams,
                    min_new_tokens=self.decoding.min_new_tokens,
                    max_new_tokens=self.decoding.max_new_tokens,
                    no_repeat_ngram_size=self.decoding.no_repeat_ngram_size,
                    length_penalty=self.decoding.length_penalty,
                    suppress_tokens=self.model.generation_config.suppress_tokens,
                )
            texts += self.processor.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def validate(self, split: Split, *, num_beams: int | None = None) -> tuple[float, list[str]]:
        """Return BLEU-4 of the averaged weights on a split, and the captions."""
        self.swap_average()
        try:
            texts = self.captions(split.features, num_beams=num_beams)
        finally:
            self.swap_average()
        return bleu4(texts, split.captions), texts

    def save(self, folder: Path, data: str, history: Sequence[dict[str, Any]]) -> None:
        """Write all that a resumed training needs, without pickle; the state file last.

        Args:
            folder: Made if needed; holds the last epoch only.
            data: Fingerprint of what is trained on.
            history: Of the finished epochs, handed back by :meth:`resume`.
        """
        from safetensors.torch import save

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"weights.{n}": p.detach().contiguous() for n, p in self.trained.items()}
        tensors |= {f"average.{n}": p.contiguous() for n, p in self.average.items()}
        for name, parameter in self.trained.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = value.reshape(-1) if not value.ndim else value
        name = f"epoch-{self.epoch}.safetensors"
        write_atomically(folder / name, save({k: v.cpu() for k, v in tensors.items()}))
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "tensors": name,
            "run": self._identity(data),
            "history": list(history),
        }
        write_atomically(folder / _STATE, json.dumps(state, indent=1).encode())
        for old in folder.glob("epoch-*.safetensors"):
            if old.name != name:
                old.unlink()

    def _identity(self, data: str) -> dict[str, Any]:
        shapes = {name: list(parameter.shape) for name, parameter in self.trained.items()}
        return {"recipe": asdict(self.recipe), "data": data, "shapes": shapes}

    def resume(self, folder: Path, data: str) -> list[dict[str, Any]]:
        """Take up a training where it stopped, if there is one, and return its history.

        Raises:
            SourceError: The folder holds the training of another recipe, model or data.
        """
        from safetensors.torch import load_file

        if not (folder / _STATE).is_file():
            return []
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        if state["run"] != self._identity(data):
            raise SourceError(
                f"{folder.parent.name} holds a run with another recipe, model or data. "
                "Repeat that run's options, or choose another --out."
            )
        tensors = load_file(folder / state["tensors"])
        for name, parameter in self.trained.items():
            parameter.data.copy_(tensors[f"weights.{name}"])
            self.average[name].copy_(tensors[f"average.{name}"])
            moments = {
                key: tensors[f"optimizer.{key}.{name}"].to(self.device)
                for key in ("exp_avg", "exp_avg_sq")
                if f"optimizer.{key}.{name}" in tensors
            }
            if moments:
                step = tensors[f"optimizer.step.{name}"].reshape(())
                self.optimizer.state[parameter] = {"step": step, **moments}
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
        return list(state["history"])


def _schedule(done: float, warmup: float) -> float:
    """Return the factor on the peak learning rate: linear up, cosine down."""
    if done < warmup:
        return max(done / warmup, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
