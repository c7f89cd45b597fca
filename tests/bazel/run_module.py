"""Run the module named by the first argument, as ``python -m`` does.

Bazel starts a file by its path, so that a module would run without its package.
"""

import runpy
import sys

if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
