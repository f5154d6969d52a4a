"""A build by several ranks: run as a program by each of them. One may be told to die on its way."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from precompute.build import pipeline
from precompute.build.workspace import Workspace
from tests.precompute.build.builds import options
from tests.precompute.planted_models import PROFILE, planted_models


def main() -> None:
    source, out = (Path(argument) for argument in sys.argv[1:3])
    if sys.argv[3] == os.environ["RANK"]:
        genuine = Workspace.write_shard

        def write(self, number, *rest):
            genuine(self, number, *rest)
            os.kill(os.getpid(), signal.SIGKILL)

        Workspace.write_shard = write
    # As on GPUs, where the first rank finds the size of batches and the others are told.
    pipeline.resolve_device = lambda _: "cuda:0"
    asked = options(source, out, PROFILE, device="cpu", executor="accelerate", grow_batch=True)
    pipeline.build(asked, models=planted_models())


if __name__ == "__main__":
    main()
