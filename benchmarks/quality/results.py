"""What was measured, on disk: a run that was killed goes on where it was."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offline.evaluation.catalogue_ranking import Ranking


@dataclass(frozen=True)
class Results:
    """A folder with one file per system, seed and masking.

    Attributes:
        directory: Made if need be.
        key: Names all that the measurements depend on: files of another key are not read.
    """

    directory: Path
    key: str

    def ranking(self, system: str, seed: int, masking: str, measure: Callable[[], Ranking]) -> Ranking:
        """The ranking of a system, measured if it was not before.

        Args:
            system: Its name.
            seed: Of its training.
            masking: ``without`` or ``with`` the items of the history.
            measure: How.
        """
        path = self.directory / f"{self.key}-{system}-{seed}-{masking}.npz"
        if not path.is_file():
            ranking = measure()
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".partial")
            with temporary.open("wb") as file:
                np.savez(file, ranks=ranking.ranks, recommended=ranking.recommended[:, :50].astype(np.int32))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        with np.load(path) as kept:
            return Ranking(kept["ranks"], kept["recommended"].astype(np.int64), np.empty((0, 0), dtype=np.float32))
