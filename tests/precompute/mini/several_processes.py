"""Several processes at the small captioner's first stage: the model that each ends with."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from precompute.finetune.captions.job import Job
from precompute.mini import pretraining
from precompute.sources.pairs import load_pairs
from tests.precompute.finetune.captions.tiny_captioner import prepared_in


def main(folder: Path) -> None:
    """Learn, and say what the model is afterwards."""
    pairs = load_pairs(str(folder / "photos"))
    prepared = prepared_in(pairs, folder / "out", epochs=1, trains=("language",))
    recipe = pretraining.PretrainingRecipe(epochs=2, folds=2)
    job = Job(prepared, pairs, None)
    job.run(*pretraining.embeddings_to_read(job, pairs, recipe))
    digest = hashlib.sha256()
    for _, tensor in sorted(prepared.objective.model.state_dict().items()):
        digest.update(tensor.numpy().tobytes())
    rank = prepared.accelerator.process_index
    (folder / f"rank-{rank}.txt").write_text(digest.hexdigest())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
