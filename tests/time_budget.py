"""A pytest plugin: ``--time-budget=SECONDS`` skips the tests that would end too late.

The tests expected to be short run first. ``@pytest.mark.slow(seconds=700)`` states a generous
estimate for one test; other slow tests are expected to take `SLOW_SECONDS`.
"""

import time

import pytest

SLOW_SECONDS = 60.0
BUDGET = pytest.StashKey[tuple[float, float]]()  # seconds, and the time at which they end


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption(
        "--time-budget",
        type=float,
        metavar="SECONDS",
        help="short tests first; skip each test not expected to end within SECONDS of the start",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Start the clock."""
    seconds = config.getoption("--time-budget")
    if seconds is not None:
        config.stash[BUDGET] = (seconds, time.monotonic() + seconds)


def expected_seconds(item: pytest.Item) -> float:
    """Return a generous estimate of a test's duration, 0 for a test that is not slow."""
    mark = item.get_closest_marker("slow")
    return 0.0 if mark is None else float(mark.kwargs.get("seconds", SLOW_SECONDS))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests by their expected duration if there is a budget."""
    if BUDGET in config.stash:
        items.sort(key=expected_seconds)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that is not expected to end in time, before its fixtures are set up."""
    if BUDGET not in item.config.stash:
        return
    budget, end = item.config.stash[BUDGET]
    remaining, expected = max(0.0, end - time.monotonic()), expected_seconds(item)
    if remaining <= expected:
        pytest.skip(
            f"{item.name} was not run: {remaining:.0f} s of the time budget of {budget:.0f} s are "
            f"left and it may take {expected:.0f} s."
        )
