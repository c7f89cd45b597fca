"""Types that the files of this folder share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

# Flag values by name; see training_flags.training_settings.
Settings: TypeAlias = Mapping[str, Any]
# A run's settings with density, method and seed, as config.json stores them.
Config: TypeAlias = dict[str, Any]
# Measured numbers by name, as report.json stores them.
Report: TypeAlias = dict[str, Any]
