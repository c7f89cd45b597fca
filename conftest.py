"""Settings for all tests and docstring examples."""

from __future__ import annotations

import pytest

from hydra_tf.export import litert

_EVERY = dict(litert.RUNTIMES)


def pytest_configure() -> None:
    """Try exported files in LiteRT only: another process would import TensorFlow for each."""
    for name in _EVERY.keys() - {litert.LITERT}:
        litert.RUNTIMES.pop(name, None)


@pytest.fixture
def every_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test try exported files in all interpreters, as users do."""
    monkeypatch.setattr(litert, "RUNTIMES", _EVERY)
