"""Tests that need PyTorch: ``make test-torch`` installs it and runs them."""

import importlib.util

# Without PyTorch these tests are not collected; with it, `make test` leaves out their marker.
collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["*.py"]
