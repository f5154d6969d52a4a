"""The losses of contrastive training, by themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from precompute.finetune.clip.loss import Criterion, distillation_loss
from precompute.finetune.clip.recipe import Distillation, Recipe


@pytest.mark.parametrize("kind", [Distillation.auto, Distillation.similarity])
def test_a_teacher_of_another_dimension_teaches_what_is_alike(kind):
    draw = torch.Generator().manual_seed(0)
    teacher = functional.normalize(torch.randn(12, 7, generator=draw), dim=1)
    free = torch.randn(12, 16, generator=draw, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        distillation_loss(functional.normalize(free, dim=1), teacher, kind).backward()
        optimizer.step()
    found = functional.normalize(free.detach(), dim=1)
    apart = ~np.eye(12, dtype=bool)
    likeness = [(rows @ rows.T).numpy()[apart] for rows in (found, teacher)]
    assert np.corrcoef(likeness)[0, 1] > 0.8
    assert float(distillation_loss(teacher, teacher, Distillation.auto)) == pytest.approx(
        0, abs=1e-5
    )


def test_an_image_is_not_contrasted_with_its_own_other_captions():
    draw = torch.Generator().manual_seed(0)
    images, one, two = functional.normalize(torch.randn(3, 4, 8, generator=draw), dim=2)
    scale = torch.tensor(10.0)

    def loss(*texts):
        return float(Criterion(Recipe())(images, torch.stack(texts), scale, None, None)["loss"])

    # Twice the same captions are no harder to tell apart than once.
    assert loss(one, one) == pytest.approx(loss(one), rel=1e-6)
    assert loss(one, two) == pytest.approx((loss(one) + loss(two)) / 2, rel=1e-6)
