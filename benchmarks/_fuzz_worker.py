"""A process that tries changed inputs of one kind and prints an outcome for each (see fuzz.py).

Arguments: kind, seed, first input, number of inputs, folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import resource
import signal
import sys
import traceback
from typing import Any

from benchmarks._fuzz_files import TARGETS
from benchmarks._fuzz_lines import BINARIES, command_lines

_MEMORY = 1 << 30  # bytes of resident memory that one input may take in addition
_ADDRESSES = 12 << 30  # bytes of address space in addition, so that a fault does not stop others
_SECONDS = 60
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = (
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate",
    "os.chmod", "shutil.rmtree", "shutil.move", "shutil.copyfile",
)  # fmt: skip
_RUNS = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "socket.connect",
    "socket.getaddrinfo", "pickle.find_class", "marshal.loads", "ctypes.dlopen",
)  # fmt: skip


class Watch:
    """Notes what Python does that reading a file must not do.

    Args:
        folder: the folder in which files may be changed.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = os.path.realpath(folder)
        self.active = False
        self.seen: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in _RUNS and not (event == "marshal.loads" and _importing()):
            self.seen.append(f"{event} {arguments!r}"[:200])
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if (writes or event in _CHANGES) and isinstance(arguments[0], str | bytes | os.PathLike):
            # The last argument of most events is the descriptor of the folder of a relative path.
            descriptor = arguments[-1] if isinstance(arguments[-1], int) and not writes else -1
            start = f"/proc/self/fd/{descriptor}" if descriptor >= 0 else ""
            path = os.path.realpath(os.path.join(start, os.fsdecode(arguments[0])))
            if not path.startswith((self.folder + os.sep, "/dev/null")):
                self.seen.append(f"{event} {path}")


def _importing() -> bool:
    """Return whether an import is going on, which unmarshals compiled modules."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if "importlib._bootstrap" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def main(kind: str, seed: int, first: int, count: int, folder: pathlib.Path) -> None:
    """Try the inputs and print one JSON line for each."""
    sys.dont_write_bytecode = True
    os.environ["TMPDIR"] = str(folder)
    attempt = command_lines(folder, kind) if kind in BINARIES else TARGETS[kind](folder)
    for number in range(200):  # until everything that is imported at first use is imported
        with contextlib.suppress(Exception):
            if attempt(random.Random(f"warm up {number}")) == "result":
                break
    else:
        sys.exit("None of 200 inputs is accepted, so the intact ones are wrong.")
    watch = Watch(folder)
    signal.signal(signal.SIGALRM, _too_long)
    if kind not in BINARIES:  # which limit the memory of their forks
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + _ADDRESSES, -1))
    for number in range(first, first + count):
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        before = _status("VmHWM")
        watch.active, watch.seen = kind not in BINARIES, []
        signal.alarm(_SECONDS)
        try:
            result = attempt(random.Random(f"{seed} {kind} {number}"))
        except BaseException as error:
            trace = traceback.extract_tb(error.__traceback__)[-1]
            result = f"{type(error).__name__}: {str(error)[:600]} ({trace.filename}:{trace.lineno})"
        signal.alarm(0)
        watch.active = False
        if _status("VmHWM") - before > _MEMORY:
            result = f"takes {(_status('VmHWM') - before) >> 20} MB"
        if watch.seen:
            result = f"did {'; '.join(watch.seen[:3])}"
        print(json.dumps([number, result]), flush=True)


def _status(key: str) -> int:
    """Return a size in bytes from the status of this process."""
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.partition(f"{key}:")[2].split()[0]) << 10


class _TooLongError(BaseException):
    """An attempt has no end; not an Exception, which a reader may take for a damaged file."""


def _too_long(*_: object) -> None:
    """Handle the alarm."""
    raise _TooLongError(f"takes more than {_SECONDS} s")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), pathlib.Path(sys.argv[5]))
