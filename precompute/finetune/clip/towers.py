"""The towers of an open_clip model as a training sees them: what is locked, and where heads begin.

A head is what maps a tower's pooled features into the joint space: the ``head`` of a timm tower,
the ``proj`` of a Hugging Face tower, the projection matrix of open_clip's own transformers. The
rest is the tower's body, which is locked by groups of layers, from the input on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from core.errors import SourceError
from precompute.finetune.clip.recipe import ALL

_MATRICES = ("proj", "text_projection")
_WHOLE_ONLY = "This kind of tower can be locked or unlocked as a whole only: give 0 or all."


class MatrixHead(nn.Module):
    """The projection of an open_clip transformer, with a bias on its input.

    The bias is not a part of open_clip's model: :meth:`fold` moves it into the layer norm before.

    Args:
        weight: The tower's own parameter, (features, dim).
        norm: The layer norm whose output reaches the projection, at most averaged over tokens.
    """

    def __init__(self, weight: nn.Parameter, norm: nn.LayerNorm) -> None:
        """Share the tower's parameter."""
        super().__init__()
        self.weight = weight
        self.bias = nn.Parameter(torch.zeros(len(weight)))
        self._norm = [norm]  # in a list, or its parameters would count as the head's

    @property
    def norm(self) -> nn.LayerNorm:
        """The layer norm before."""
        return self._norm[0]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (n, features) to (n, dim)."""
        return (features + self.bias) @ self.weight

    @torch.no_grad()
    def fold(self) -> None:
        """Move the bias into the layer norm; the tower as a whole then gives what the head gave."""
        self.norm.bias += self.bias
        self.bias.zero_()


class Tower(nn.Module):
    """One tower in training.

    Where the body is locked its features never change, so they are computed once and the tower
    maps features; else it maps what its open_clip module maps. Features are then centred and
    scaled to unit variance while training: pooled activations may all be positive, and dropping
    some of them would shift the rest. :meth:`standardise` starts that, :meth:`absorb` ends it.

    Args:
        module: An open_clip tower.
        unlocked: Last groups of the body that are trained, ``ALL`` for every weight.
        lock_head: Whether the head keeps its weights.
        dropout: Share of the features that is dropped in training, where the body is locked.

    Raises:
        SourceError: This kind of tower can be unlocked as a whole only.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self,
        module: nn.Module,
        *,
        unlocked: int = 0,
        lock_head: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """Lock what is to be locked."""
        super().__init__()
        self.module = module
        self.body_is_locked = unlocked == 0
        self.head, self._matrix = _find_head(module)
        self.dropout = 0.0 if lock_head else dropout
        _lock_body(module, unlocked, has_matrix=self._matrix is not None)
        for parameter in self.head.parameters():
            parameter.requires_grad_(not lock_head)
        if isinstance(self.head, MatrixHead) and not self.body_is_locked:
            self.head.bias.requires_grad_(False)  # the layer norm's own bias does its work
        self.register_buffer("mean", torch.zeros(()), persistent=False)
        self.register_buffer("deviation", torch.ones(()), persistent=False)

    @property
    def head_is_trained(self) -> bool:
        """Whether the head has weights that are trained."""
        return any(parameter.requires_grad for parameter in self.head.parameters())

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Map a batch to (n, dim), not normalised.

        Args:
            batch: Features (n, width) where the body is locked, else pixels or token ids.
        """
        if not self.body_is_locked:
            return self.module(batch)
        standard = (batch.float() - self.mean) / self.deviation
        return self.head(nn.functional.dropout(standard, self.dropout, self.training))

    def features(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the body's pooled features (n, width) of pixels or token ids."""
        module = self.module
        if hasattr(module, "trunk") and hasattr(module, "head"):
            return module.trunk(batch)
        if hasattr(module, "transformer") and hasattr(module, "pooler"):
            mask = (batch != module.config.pad_token_id).long()
            return module.pooler(module.transformer(input_ids=batch, attention_mask=mask), mask)
        with self._without_matrix():
            return module(batch)

    def body_state(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the body by their names in the open_clip module."""
        head = {parameter.data_ptr() for parameter in self.head.parameters()}
        state = self.module.state_dict()
        return {name: t for name, t in state.items() if t.data_ptr() not in head}

    @torch.no_grad()
    def standardise(self, features: torch.Tensor, *, keep: bool) -> None:
        """Centre and scale features from now on, as far as the head can take that up.

        Args:
            features: float16 (views, n, width), to take mean and deviation from.
            keep: Adapt the head so that its output stays the same; else it is taken as meant for
                standardised features.
        """
        first = self._first_layer()
        if first is None or not self.head_is_trained:
            return
        if first.bias is not None:
            self.mean = features.float().mean(dim=(0, 1)).to(self.mean)
        self.deviation = features.float().std(dim=(0, 1)).mean().to(self.deviation)
        if keep:
            if isinstance(first, nn.Linear) and first.bias is not None:
                first.bias += first.weight @ self.mean
            elif first.bias is not None:
                first.bias.copy_((first.bias + self.mean) / self.deviation)
            first.weight *= self.deviation

    @contextlib.contextmanager
    def absorbed(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the tensors of the open_clip module as it would give the same from raw features.

        Inside, centring and scaling are a part of its weights; after, training goes on as before.
        """
        changed = [self.mean, self.deviation, *self.head.parameters()]
        if isinstance(self.head, MatrixHead):
            changed.append(self.head.norm.bias)
        kept = [(tensor, tensor.detach().clone()) for tensor in changed]
        with torch.no_grad():
            self._absorb()
        try:
            yield self.module.state_dict()
        finally:
            with torch.no_grad():
                for tensor, content in kept:
                    tensor.copy_(content)

    def _absorb(self) -> None:
        first = self._first_layer()
        if first is None or not self.head_is_trained:
            return
        first.weight /= self.deviation
        if isinstance(first, nn.Linear) and first.bias is not None:
            first.bias -= first.weight @ self.mean.expand(first.in_features)
        elif isinstance(first, MatrixHead):
            first.bias.copy_(first.bias * self.deviation - self.mean)
            first.fold()
        self.mean.zero_()
        self.deviation.fill_(1)

    def train_unlocked(self) -> None:
        """Go into training mode, but for the parts whose weights are all locked.

        Those keep what batch norm has learned of their data, and drop nothing.
        """
        self.train()
        for part in self.module.modules():
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                part.eval()

    def _first_layer(self) -> nn.Linear | MatrixHead | None:
        if isinstance(self.head, MatrixHead):
            return self.head
        return next((m for m in self.head.modules() if isinstance(m, nn.Linear)), None)

    @contextlib.contextmanager
    def _without_matrix(self) -> Iterator[None]:
        """Let the module end before its projection matrix."""
        if self._matrix is None:
            yield
            return
        kept = getattr(self.module, self._matrix)
        setattr(self.module, self._matrix, None)
        try:
            yield
        finally:
            setattr(self.module, self._matrix, kept)


def _find_head(module: nn.Module) -> tuple[nn.Module, str | None]:
    """Return the head, and the name of the projection matrix if that is what it is."""
    if hasattr(module, "trunk") and hasattr(module, "head"):
        return module.head, None
    if hasattr(module, "pooler") and hasattr(module, "proj"):
        return module.proj, None
    for name in _MATRICES:
        matrix = getattr(module, name, None)
        if isinstance(matrix, nn.Linear):
            return matrix, name
        if isinstance(matrix, nn.Parameter):
            norm = getattr(module, "ln_post", None) or getattr(module, "ln_final", None)
            if isinstance(norm, nn.LayerNorm) and norm.bias is not None:
                return MatrixHead(matrix, norm), name
    return nn.Identity(), None


def _lock_body(module: nn.Module, unlocked: int, *, has_matrix: bool) -> None:
    if unlocked == ALL:
        return
    if hasattr(module, "pooler"):
        _lock_hugging_face(module.transformer, unlocked)
        return
    # open_clip counts the matrix of its own transformers as one more group, the last.
    groups = unlocked + 1 if has_matrix and unlocked else unlocked
    lock: Callable[[int], None] | None = getattr(module, "lock", None)
    if lock is None:
        if unlocked:
            raise SourceError(_WHOLE_ONLY)
        module.requires_grad_(False)
        return
    try:
        lock(groups)
    except (AssertionError, AttributeError, RuntimeError) as error:
        raise SourceError(
            "This kind of tower can be unlocked as a whole only: give all."
        ) from error


def _lock_hugging_face(transformer: nn.Module, unlocked: int) -> None:
    """Lock all but the last groups of embeddings and layers, as open_clip does for RoBERTa.

    Its own ``lock`` knows the layers of a few architectures only; BERT is not one of them.
    """
    layers = max(
        (part for part in transformer.modules() if isinstance(part, nn.ModuleList)),
        key=len,
        default=None,
    )
    if layers is None and unlocked:
        raise SourceError(_WHOLE_ONLY)
    transformer.requires_grad_(False)
    groups = [transformer.get_input_embeddings(), *(layers or [])]
    for part in groups[-unlocked:] if unlocked else []:
        part.requires_grad_(True)
    if unlocked >= len(groups):
        transformer.requires_grad_(True)
