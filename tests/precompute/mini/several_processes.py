"""Several processes at the small captioner's first stage: what each of them did, as JSON."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from precompute.finetune.captions.job import Job
from precompute.mini import pretraining
from precompute.sources.pairs import load_pairs
from tests.precompute.finetune.captions.tiny_captioner import prepared_in


def main(folder: Path) -> None:
    """Learn, and say who taught the Q-Former and what the model is afterwards."""
    taught = []
    teach = pretraining.teach_qformer
    pretraining.teach_qformer = lambda *args: taught.append(True) or teach(*args)
    pairs = load_pairs(str(folder / "photos"))
    prepared = prepared_in(pairs, folder / "out", epochs=1, trains=("language",))
    recipe = pretraining.PretrainingRecipe(epochs=2, folds=2)
    Job(prepared, pairs, None, task=pretraining.EmbeddingPretraining(recipe)).run()
    digest = hashlib.sha256()
    for _, tensor in sorted(prepared.objective.model.state_dict().items()):
        digest.update(tensor.numpy().tobytes())
    rank = prepared.accelerator.process_index
    found = {"taught": bool(taught), "model": digest.hexdigest()}
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
