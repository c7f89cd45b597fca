"""Studies of several networks, objectives and granularities: one folder for each combination."""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from absl import flags

from hydra_tf.core.files import replacing

from . import html_report
from .flag_values import spec_list
from .launcher import FLAGS, UsageError

# Flags that list values, and the flags for one value.
_AXES = {"models": "model", "objectives": "objective", "granularities": "granularity"}


@dataclass(frozen=True)
class Variant:
    """One combination of the values of the flags that list some.

    Args:
        values: value of each flag for one value; empty without lists.
        out: folder of the study.
    """

    values: dict[str, str]
    out: str

    @property
    def name(self) -> str:
        """The name of the folder, within that of all variants."""
        return os.path.basename(self.out)

    def flags(self) -> list[str]:
        """Return the flags that make a command line one of this variant alone."""
        lists = [f"--{name}=" for name in _AXES]
        return [*lists, *(f"--{k}={v}" for k, v in self.values.items()), f"--out={self.out}"]

    def apply(self) -> None:
        """Set the flags of this process to those of the variant."""
        for name, value in {**self.values, "out": self.out}.items():
            setattr(FLAGS, name, value)


def define() -> None:
    """Define the flags that list values."""
    for axis, flag in _AXES.items():
        flags.DEFINE_string(
            axis,
            None,
            f"Several values of --{flag}, those with commas in brackets; each combination is a "
            "study in a folder of its own, with the other flags as given.",
        )


def variants() -> list[Variant]:
    """Return the combinations of the flags that list values.

    Raises:
        UsageError: for combinations with the same folder.
    """
    lists = {
        flag: spec_list(FLAGS[axis].value) for axis, flag in _AXES.items() if FLAGS[axis].value
    }
    if not lists or not FLAGS.out:
        return [Variant({}, FLAGS.out)]
    found = []
    for combination in itertools.product(*lists.values()):
        values = dict(zip(lists, combination, strict=True))
        several = [value for flag, value in values.items() if len(lists[flag]) > 1]
        name = re.sub(r"[^\w.]+", "-", "-".join(several or combination)).strip("-")
        found.append(Variant(values, os.path.join(FLAGS.out, name)))
    if len({variant.out for variant in found}) < len(found):
        raise UsageError("--models, --objectives and --granularities list a value twice.")
    return found


def write_overview(out: str, studies: Sequence[Variant]) -> None:
    """Write cells.csv, table.md and report.html of all variants to the folder above theirs.

    Args:
        out: that folder.
        studies: the variants, whose studies have these files.
    """
    rows, texts = [], {}
    for study in studies:
        with open(os.path.join(study.out, "cells.csv"), newline="", encoding="utf-8") as file:
            rows += [{**study.values, **row} for row in csv.DictReader(file)]
        with open(os.path.join(study.out, "table.md"), encoding="utf-8") as file:
            texts[study.name] = file.read()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (
        replacing(os.path.join(out, "cells.csv"), ".csv") as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    with replacing(os.path.join(out, "table.md")) as temporary:
        text = "\n".join(f"## {name}\n\n{table}" for name, table in texts.items())
        temporary.write_text(text, encoding="utf-8")
    html_report.write_index(texts, os.path.join(out, "report.html"))
