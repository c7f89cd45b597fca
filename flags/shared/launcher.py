"""Start a binary: check its flags before TensorFlow loads, run it, report errors in one line."""

from __future__ import annotations

import gc
import os
import pathlib
import signal
import sys
import textwrap
from collections.abc import Callable
from logging import ERROR, LogRecord

from absl import flags, logging

from hydra_tf.core.graphs import assertion_sentence
from hydra_tf.core.stderr import hidden_stderr

FLAGS = flags.FLAGS

# STOPPED is EX_TEMPFAIL of sysexits.h: the same command resumes the run.
INTERRUPTED, USAGE, STOPPED = 130, 2, 75
# True of every binary: it resumes from what it has written, if anything.
_RESUMES = "the same command resumes from the work saved so far."


class StoppedError(BaseException):
    """The run was stopped from outside; the text says how to resume it."""


class UsageError(Exception):
    """A bad command line; the text is the error sentence for the user."""


def launch(
    name: str,
    description: str,
    validate: Callable[[], object],
    run: Callable[..., None],
    start: Callable[[], object] | None = None,
) -> None:
    """Parse the command line, check it, and run; exit with status 0 only if all work was done.

    Args:
        name: the binary's name.
        description: text that ``--help`` prints before the list of flags.
        validate: checks the flags without loading TensorFlow and returns the plan of the run.
        run: does the work; called with the plan and, if `start` is given, with its result.
        start: called right after TensorFlow is imported, before its devices are initialised.
    """
    if any(word in ("--help", "-help", "-h", "--helpfull") for word in sys.argv[1:]):
        sys.stdout.write(_help(name, description, full="--helpfull" in sys.argv))
        sys.exit(0)
    try:
        rest = FLAGS([_with_recipe(argument) for argument in sys.argv])[1:]
        if rest:
            raise UsageError(f"Unexpected argument {rest[0]!r}; flags are given as --flag=value.")
        plan = validate()
    except (flags.Error, UsageError, ValueError, TypeError, OSError, ImportError) as error:
        sys.stderr.write(f"{name}: {_sentence(error)}\n")
        sys.exit(USAGE)
    logging.use_absl_handler()
    logging.get_absl_logger().addFilter(_concerns_user)
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
        text, status = f"interrupted; {_RESUMES}", INTERRUPTED
    except StoppedError as error:
        text, status = str(error), STOPPED
    except Exception as error:
        if not isinstance(_original(error), failures):
            raise
        logging.debug("%s", error, exc_info=True)
        text, status = _sentence(_original(error)), USAGE
    # An error's frames may keep dataset iterators alive, whose threads would block the exit.
    gc.collect()
    sys.stderr.write(f"{name}: {text}\n")
    sys.exit(status)


def _with_recipe(argument: str) -> str:
    """Return an argument, with the installed file of a recipe that the current folder lacks.

    Example:
        >>> _with_recipe("--flagfile=flags/recipes/none.flags")
        '--flagfile=flags/recipes/none.flags'
    """
    flag, _, path = argument.partition("=")
    installed = pathlib.Path(__file__).parents[1] / "recipes" / os.path.basename(path)
    found = flag in ("--flagfile", "-flagfile") and not os.path.exists(path) and installed.is_file()
    return f"{flag}={installed}" if found else argument


def _concerns_user(record: LogRecord) -> bool:
    """Return whether a log record is shown.

    Hidden are messages of TensorFlow Datasets about missing folders, which end in an error
    sentence anyway, and TensorFlow's warnings about retracing, which each network and phase
    requires, and about the only eager reduction among workers.
    """
    if record.levelno >= ERROR:
        return True
    message = str(record.msg)
    known = ("triggered tf.function retracing", "eagerly has significant overhead")
    return "tensorflow_datasets" not in record.pathname and not any(k in message for k in known)


def _original(error: BaseException) -> BaseException:
    """Return the error that was raised while a graph was traced; other errors unchanged."""
    while str(error).startswith("in user code:") and error.__context__ is not None:
        error = error.__context__
    return error


def _terminated(*_: object) -> None:
    """Handle SIGTERM outside of the training loop, which has a handler that saves first."""
    raise StoppedError(f"stopped by SIGTERM; {_RESUMES}")


def _load_tensorflow(start: Callable[[], object] | None) -> tuple[type[Exception], list[object]]:
    """Import TensorFlow and initialise its devices; hide what C++ writes to stderr meanwhile.

    Those lines (processor features, missing GPU libraries) would hide the one line that
    matters. They are shown if the import fails.

    Returns:
        The base class of TensorFlow's errors, and a list of the result of `start`, if given.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with hidden_stderr(show_on_error=True):
        import keras
        import tensorflow as tf

        started = [] if start is None else [start()]
        tf.config.list_logical_devices()
        keras.ops.ones(1)
        tf.get_logger().addFilter(_concerns_user)
    failure: type[Exception] = tf.errors.OpError
    return failure, started


def _sentence(error: BaseException) -> str:
    """Return one line about an error; for a failed assertion of a graph, its own sentence."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join((assertion_sentence(text) or text).split())


def _help(name: str, description: str, full: bool) -> str:
    """Return the help text: the description, then the flags."""
    if full:
        return f"{description}\n{FLAGS.get_help()}\n"
    lines = [textwrap.dedent(description).strip(), "", "Flags:"]
    for module, entries in FLAGS.flags_by_module_dict().items():
        if not (module.endswith((name, "training_flags", "judging")) or module == sys.argv[0]):
            continue
        for flag in entries:
            default = "" if flag.default is None else f" (default: {flag.default_as_str})"
            text = textwrap.fill(
                f"{flag.help}{default}", 88, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
            lines += [f"  --{flag.name}", text]
    text = "\n".join(lines) + "\n\n--helpfull lists the flags of absl too.\n"
    # An installed package has commands such as hydra-train.
    installed = os.path.basename(sys.argv[0]).startswith("hydra-")
    return text.replace("python -m flags.", "hydra-") if installed else text
