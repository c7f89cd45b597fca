"""Settings for all tests and docstring examples."""

from __future__ import annotations

import pytest

from hydra_tf.export import litert

_EVERY = dict(litert.RUNTIMES)

# Modules whose docstring examples need PyTorch, or take too long for the default tests.
_MARKED_EXAMPLES = {
    "hydra_tf.interop.tfmot.quantization": pytest.mark.slow(seconds=30),
    "hydra_tf.interop.torch.loading": pytest.mark.torch,
    "hydra_tf.interop.torch.saving": pytest.mark.torch,
}


def pytest_configure() -> None:
    """Try exported files in LiteRT only: another process would import TensorFlow for each."""
    for name in _EVERY.keys() - {litert.LITERT}:
        litert.RUNTIMES.pop(name, None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark docstring examples, before tests are selected by their marks."""
    for item in items:
        if isinstance(item, pytest.DoctestItem) and item.dtest is not None:
            module = item.dtest.globs.get("__name__")
            if module in _MARKED_EXAMPLES:
                item.add_marker(_MARKED_EXAMPLES[module])


@pytest.fixture
def every_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test try exported files in all interpreters, as users do."""
    monkeypatch.setattr(litert, "RUNTIMES", _EVERY)
