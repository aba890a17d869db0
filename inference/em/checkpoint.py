"""Where a long climb stood: its state after every pass over the rows, in one file, whole or not at all."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.models.errors import InputError

__all__ = ["Checkpoint"]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A file that holds the state of a climb, and `mark`, which says which one.

    Of several processes that share the rows the first writes, and all read: the path is one they all see.
    """

    path: Path
    mark: str

    def save(self, state: Any, objective: np.ndarray) -> None:
        """Write the state, a pytree of arrays; the objectives there (R,), nats, are added to those before."""
        if jax.process_index() != 0:
            return
        before = self.load(state)
        trace = objective[None] if before is None else np.concatenate([before[1], objective[None]])
        leaves = {f"leaf{index}": np.asarray(leaf) for index, leaf in enumerate(jax.tree.leaves(state))}
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, mark=np.array(self.mark), trace=trace, **leaves)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def load(self, state: Any) -> tuple[Any, np.ndarray] | None:
        """Give the saved state, in the structure of `state`, and the objectives; None if there is no file.

        Raises
        ------
        InputError : the file is not a checkpoint, or one of another climb.
        """
        if not self.path.exists():
            return None
        cure = "give another path, or delete the file to begin anew"
        try:
            with np.load(self.path) as saved:
                mark, trace = str(saved["mark"]), saved["trace"]
                count = len(jax.tree.leaves(state))
                same = mark == self.mark
                leaves = [jnp.asarray(saved[f"leaf{index}"]) for index in range(count if same else 0)]
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            raise InputError(f"{self.path} is not a checkpoint of EM: {cure}.") from None
        if mark != self.mark:
            raise InputError(f"{self.path} is the checkpoint of another fit (key, settings or rows): {cure}.")
        return jax.tree.unflatten(jax.tree.structure(state), leaves), trace

    def clear(self) -> None:
        """Delete the file: the climb is over."""
        if jax.process_index() == 0:
            self.path.unlink(missing_ok=True)
