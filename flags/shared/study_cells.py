"""The networks of a study: their folders, configs and locks."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections import Counter
from collections.abc import Sequence

from absl import logging

from . import run_directory, run_files
from .launcher import UsageError
from .types import Config, Settings

# The networks that are not pruned: the one from which pruning starts, and one of more epochs.
DENSE, DENSE_LONG = "dense", "dense_long"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One network of a study.

    Args:
        method: spec of the pruning method, or :data:`DENSE` or :data:`DENSE_LONG`.
        allocation: spec of the density per layer.
        density: share of the weights to keep.
        seed: seed of the network.
        epochs: number of epochs of a :data:`DENSE_LONG` network, None for others.
    """

    method: str
    allocation: str
    density: float
    seed: int
    epochs: int | None = None

    @property
    def is_dense(self) -> bool:
        """Whether the network is not pruned."""
        return self.method in (DENSE, DENSE_LONG)


@dataclasses.dataclass(frozen=True)
class Study:
    """A folder of networks that have the same settings.

    Args:
        out: the folder.
        settings: settings of all networks; see :func:`training_flags.training_settings`.
    """

    out: str
    settings: Settings

    def dense(self, seed: int) -> Cell:
        """Return the dense network from which the pruned networks of a seed start."""
        return Cell(DENSE, self.settings["allocation"], 1.0, seed)

    def dense_long(self, seed: int, epochs: int) -> Cell:
        """Return the dense network of a seed that is trained for `epochs` epochs."""
        return dataclasses.replace(self.dense(seed), method=DENSE_LONG, epochs=epochs)

    def folder(self, cell: Cell) -> str:
        """Return the folder name of a network, without the colons and brackets of its specs.

        The allocation of the settings is left out, as in studies that have no other allocation.
        """
        specs = [cell.method]
        if cell.allocation != self.settings["allocation"]:
            specs.append(cell.allocation)
        name = re.sub(r"[^\w.]+", "-", "-".join(specs))
        return name if cell.is_dense else f"{name}-{cell.density:g}"

    def seed_directory(self, seed: int) -> str:
        """Return the folder of the networks of a seed."""
        return os.path.join(self.out, f"seed{seed}")

    def directory(self, cell: Cell) -> str:
        """Return the run directory of a network."""
        return os.path.join(self.seed_directory(cell.seed), self.folder(cell))

    def config(self, cell: Cell) -> Config:
        """Return the config of the run of a network."""
        skipped = ("prune_epochs", "finetune_epochs") if cell.is_dense else ("pretrain_epochs",)
        config = {**self.settings, **dict.fromkeys(skipped, 0)}
        if cell.is_dense:
            config.pop("granularity", None)  # which may not have the density 1
        if cell.epochs is not None:
            config["pretrain_epochs"] = cell.epochs
        if config["pretrained"]:
            config["pretrained"] = config["pretrained"].replace("{seed}", str(cell.seed))
        entries = {"allocation": cell.allocation, "density": cell.density, "method": cell.method}
        return {**config, **entries, "seed": cell.seed}

    def is_finished(self, cell: Cell) -> bool:
        """Return whether a network is finished; see :func:`run_directory.is_finished`."""
        return run_directory.is_finished(self.directory(cell), self.config(cell))

    def check_folders(self, cells: Sequence[Cell]) -> None:
        """Check that no two networks have the same folder.

        Raises:
            UsageError: for networks that are listed twice.
        """
        for directory, count in Counter(map(self.directory, cells)).items():
            if count > 1:
                raise UsageError(
                    f"--methods, --allocations and --densities give {count} networks the folder "
                    f"{os.path.basename(directory)!r}; list each of them once."
                )

    def prepare(self, cells: Sequence[Cell], lock_seeds: bool = True) -> None:
        """Lock the seeds of networks for this process; check what the folder has of all networks.

        Other processes can train the networks of other seeds meanwhile.

        Args:
            cells: the networks.
            lock_seeds: whether this process trains them; else others will.

        Raises:
            UsageError: when the folder has something else, another process has locked a seed, or
                a network has other settings or is damaged.
        """
        if os.path.exists(os.path.join(self.out, "config.json")):
            raise UsageError(f"{self.out} holds a run of flags.train; choose another --out.")
        os.makedirs(self.out, exist_ok=True)
        run_directory.lock(self.out, shared=True)
        for seed in dict.fromkeys(cell.seed for cell in cells):
            os.makedirs(self.seed_directory(seed), exist_ok=True)
            if lock_seeds:
                run_directory.lock(self.seed_directory(seed))
        for cell in cells:
            self.is_finished(cell)
        self._stored()

    def finished(self) -> list[Cell]:
        """Return the finished networks of the folder, sorted by seed, then by falling density.

        Networks of other settings are left out, with a warning that names them.
        """
        stored = self._stored()
        same = [cell for path, cell in stored.items() if cell and self._has_run(path, cell)]
        left_out = sorted(set(stored) - set(map(self.directory, same)))
        if left_out:
            logging.warning(
                "hydra_tf: networks with other settings are not in the tables of %s: %s.",
                self.out,
                ", ".join(left_out),
            )
        done = [cell for cell in same if run_directory.has_finished(self.directory(cell))]
        return sorted(
            done, key=lambda cell: (cell.seed, -cell.density, cell.method, cell.allocation)
        )

    def _has_run(self, path: str, cell: Cell) -> bool:
        """Return whether a run directory has the name and the config of a network."""
        return path == self.directory(cell) and run_directory.is_same_run(path, self.config(cell))

    def _stored(self) -> dict[str, Cell | None]:
        """Return the run directories of the folder with their networks, None for other runs."""
        pattern = os.path.join(glob.escape(self.out), "seed*", "*", "config.json")
        directories = map(os.path.dirname, glob.glob(pattern))
        return {path: _cell_of(run_files.read_config(path)) for path in directories}


def _cell_of(config: Settings) -> Cell | None:
    """Return the network of a config, or None if it is not one of a study."""
    kinds = {"method": str, "allocation": str, "density": float, "seed": int}
    if any(type(config.get(key)) is not kind for key, kind in kinds.items()):
        return None
    epochs = config.get("pretrain_epochs") if config["method"] == DENSE_LONG else None
    return Cell(**{key: config[key] for key in kinds}, epochs=epochs)
