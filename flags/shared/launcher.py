"""What the binaries share: parsing, checks made before TensorFlow loads, and errors."""

from __future__ import annotations

import gc
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from logging import ERROR
from typing import Any

from absl import flags, logging

from hydra_tf.core.graphs import assertion_sentence
from hydra_tf.core.stderr import hidden_stderr

FLAGS = flags.FLAGS

# STOPPED, the system's "try again later", is for what is taken up by the same command.
INTERRUPTED, USAGE, STOPPED = 130, 2, 75


class StoppedError(BaseException):
    """The run has been stopped from outside; its text says how it goes on."""


class UsageError(Exception):
    """A bad command line; its text is the sentence the user sees."""


def launch(
    name: str,
    teach: str,
    validate: Callable[[], Any],
    run: Callable[..., None],
    start: Callable[[], Any] | None = None,
) -> None:
    """Parse the command line, check it, and run; end with status 0 only when all is done.

    Args:
        name: the binary's name.
        teach: what ``--help`` says before it lists the flags.
        validate: checks the flags without loading TensorFlow and returns what `run` needs.
        run: does the work, given what `validate` and, if there is one, `start` have returned.
        start: asks TensorFlow for what it gives only before anything else is done with it.
    """
    if any(word in ("--help", "-help", "-h", "--helpfull") for word in sys.argv[1:]):
        sys.stdout.write(_help(name, teach, full="--helpfull" in sys.argv))
        sys.exit(0)
    try:
        rest = FLAGS(sys.argv)[1:]
        if rest:
            raise UsageError(f"Unexpected argument {rest[0]!r}; flags are given as --flag=value.")
        plan = validate()
    except (flags.Error, UsageError, ValueError, TypeError, OSError, ImportError) as error:
        sys.stderr.write(f"{name}: {_sentence(error)}\n")
        sys.exit(USAGE)
    logging.use_absl_handler()
    logging.get_absl_logger().addFilter(_is_for_the_user)
    failures: tuple[type[Exception], ...] = (
        *(UsageError, ValueError, TypeError, OSError, ImportError, ArithmeticError),
        *(RuntimeError, MemoryError),
    )
    signal.signal(signal.SIGTERM, _terminated)
    try:
        failure, started = _load_tensorflow(start)
        failures += (failure,)
        run(plan, *started)
        return
    except KeyboardInterrupt:
        text = "interrupted; the same command goes on from the last checkpoint, if there is one."
        status = INTERRUPTED
    except StoppedError as error:
        text, status = str(error), STOPPED
    except Exception as error:
        if not isinstance(_as_raised(error), failures):
            raise
        logging.debug("%s", error, exc_info=True)
        text, status = _sentence(_as_raised(error)), USAGE
    # The frames of an error may hold iterators, whose threads wait for ever once Python is gone.
    gc.collect()
    sys.stderr.write(f"{name}: {text}\n")
    sys.exit(status)


def _is_for_the_user(record: Any) -> bool:
    """Not what TensorFlow Datasets notes of folders: what is missing has a sentence of its own.

    Nor what TensorFlow says of graphs made anew, as each network and phase needs them, and of
    the one sum that workers make outside of a graph.
    """
    if record.levelno >= ERROR:
        return True
    said = str(record.msg)
    known = ("triggered tf.function retracing", "eagerly has significant overhead")
    return "tensorflow_datasets" not in record.pathname and not any(k in said for k in known)


def _as_raised(error: BaseException) -> BaseException:
    """The error itself, where TensorFlow has put the story of a graph's making in its place."""
    while str(error).startswith("in user code:") and error.__context__ is not None:
        error = error.__context__
    return error


def _terminated(*_: Any) -> None:
    """SIGTERM where there is nothing to be kept."""
    raise StoppedError("told to stop; the same command goes on where it stopped.")


def _load_tensorflow(start: Callable[[], Any] | None) -> tuple[type[Exception], list[Any]]:
    """Import TensorFlow and start its devices, without what C++ writes to the screen then.

    Those lines (processor features, missing GPU libraries) would stand between a user and
    the one line that counts. They are shown when the import fails.

    Returns:
        The class of TensorFlow's own errors, and what `start` has returned, if there is one.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with hidden_stderr(show_on_error=True):
        import keras
        import tensorflow as tf

        started = [] if start is None else [start()]
        tf.config.list_logical_devices()
        keras.ops.ones(1)
        tf.get_logger().addFilter(_is_for_the_user)
    failure: type[Exception] = tf.errors.OpError
    return failure, started


def _sentence(error: BaseException) -> str:
    """One line about an error; of a graph's assertion that of ours, which ends in a full stop."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join((assertion_sentence(text) or text).split())


def _help(name: str, teach: str, full: bool) -> str:
    """The help text: what the binary does, then its own flags."""
    if full:
        return f"{teach}\n{FLAGS.get_help()}\n"
    lines = [textwrap.dedent(teach).strip(), "", "Flags:"]
    for module, entries in FLAGS.flags_by_module_dict().items():
        if not (module.endswith((name, "training_flags")) or module == sys.argv[0]):
            continue
        for flag in entries:
            default = "" if flag.default is None else f" (default: {flag.default_as_str})"
            text = textwrap.fill(
                f"{flag.help}{default}", 88, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
            lines += [f"  --{flag.name}", text]
    text = "\n".join(lines) + "\n\n--helpfull lists the flags of absl too.\n"
    # Outside of a checkout there is no module `flags`.
    installed = os.path.basename(sys.argv[0]).startswith("hydra-")
    return text.replace("python -m flags.", "hydra-") if installed else text
