"""What the binaries share: parsing, checks made before TensorFlow loads, and errors."""

from __future__ import annotations

import os
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging

FLAGS = flags.FLAGS

INTERRUPTED, USAGE = 130, 2


class UsageError(Exception):
    """A bad command line; its text is the sentence the user sees."""


def launch(name: str, teach: str, validate: Callable[[], Any], run: Callable[[Any], None]) -> None:
    """Parse the command line, check it, and run; end with status 0 only when all is done.

    Args:
        name: the binary's name.
        teach: what ``--help`` says before it lists the flags.
        validate: checks the flags without loading TensorFlow and returns what `run` needs.
        run: does the work.
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
        _end(name, error)
    logging.use_absl_handler()
    failures: tuple[type[Exception], ...] = (
        *(UsageError, ValueError, TypeError, OSError, ImportError, ArithmeticError),
        *(RuntimeError, MemoryError),
    )
    try:
        failures += (_load_tensorflow(),)
        run(plan)
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted; the same command goes on where it stopped.\n")
        sys.exit(INTERRUPTED)
    except failures as error:
        logging.debug("%s", error, exc_info=True)
        _end(name, error)


def _load_tensorflow() -> type[Exception]:
    """Import TensorFlow and start its devices, without what C++ writes to the screen then.

    Those lines (processor features, missing GPU libraries) would stand between a user and
    the one line that counts. They are shown when the import fails.

    Returns:
        The class of TensorFlow's own errors.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            import keras
            import tensorflow as tf

            tf.config.list_logical_devices()
            keras.ops.ones(1)
            failure: type[Exception] = tf.errors.OpError
            return failure
        except BaseException:
            chatter.seek(0)
            os.write(screen, chatter.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)


def _end(name: str, error: Exception) -> None:
    """Write one line about an error and leave with the status of bad input."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}"
    sys.stderr.write(f"{name}: {' '.join(text.split())}\n")
    sys.exit(USAGE)


def _help(name: str, teach: str, full: bool) -> str:
    """The help text: what the binary does, then its own flags."""
    if full:
        return f"{teach}\n{FLAGS.get_help()}\n"
    lines = [textwrap.dedent(teach).strip(), "", "Flags:"]
    for module, entries in FLAGS.flags_by_module_dict().items():
        if not (module.endswith((name, "common")) or module == sys.argv[0]):
            continue
        for flag in entries:
            default = "" if flag.default is None else f" (default: {flag.default_as_str})"
            text = textwrap.fill(
                f"{flag.help}{default}", 88, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
            lines += [f"  --{flag.name}", text]
    return "\n".join(lines) + "\n\n--helpfull lists the flags of absl too.\n"


def define_training() -> None:
    """Define the flags that say what is trained and how."""
    flags.DEFINE_string(
        "dataset",
        "mnist_5k",
        "Data set: mnist_5k and digits need no network; "
        "mnist, cifar10, cifar100, svhn, imagenet, imagenette come by TensorFlow Datasets "
        '("cifar10:data_dir=/path"); folder holds your own images, a folder for each class '
        '("folder:path=/path,size=64"), npz an archive of images and labels ("npz:path=/path").',
    )
    flags.DEFINE_string(
        "model",
        "mnist_cnn",
        "Network, such as mnist_cnn, cnn_large, vgg16_bn, resnet50 or "
        "wide_resnet:depth=28,width=4.",
    )
    flags.DEFINE_string(
        "objective",
        "trades",
        "Robust objective with its parameters, such as "
        "trades:epsilon=8/255,steps=10,beta=6, pgd:epsilon=0.2,ramp=0.5 or natural.",
    )
    flags.DEFINE_string(
        "pretrained",
        None,
        "Run directory or .keras file whose network to start from, instead of a new one; "
        "{seed} in it stands for the seed.",
    )
    flags.DEFINE_integer("pretrain_epochs", 100, "Epochs that train all weights.")
    flags.DEFINE_integer("prune_epochs", 20, "Epochs that train the importance scores.")
    flags.DEFINE_integer("finetune_epochs", 100, "Epochs that train the surviving weights.")
    flags.DEFINE_integer("batch_size", 128, "Images per step.")
    flags.DEFINE_float("learning_rate", 0.1, "Peak learning rate; fine-tuning takes a tenth of it.")
    for phase in ("pretrain", "prune", "finetune"):
        flags.DEFINE_float(f"{phase}_learning_rate", None, f"Peak learning rate of {phase}.")
    flags.DEFINE_enum(
        "optimizer", "sgd", ["sgd", "adam", "adamw"], "Optimizer; sgd has momentum 0.9."
    )
    flags.DEFINE_float("weight_decay", 1e-4, "Decoupled weight decay.")
    flags.DEFINE_enum("schedule", "cosine", ["cosine", "constant"], "Learning rate in each phase.")
    flags.DEFINE_float("warmup", 0.05, "Share of each phase over which the learning rate rises.")
    flags.DEFINE_string("allocation", "uniform", "Density per layer: uniform, erk or largest.")
    flags.DEFINE_string(
        "attacks",
        "pgd:steps=50,restarts=10",
        "Attacks of the final report, "
        "separated by semicolons; epsilon and norm are the objective's unless "
        "given.",
    )
    flags.DEFINE_integer("verbose", 1, "0 is silent, 1 shows progress bars, 2 a line per epoch.")


def training_settings() -> dict[str, Any]:
    """Return the training flags as a mapping, checked without TensorFlow.

    Raises:
        ValueError: for a value that the library would refuse later.
    """
    from hydra_tf import attacks, data, models, objectives
    from hydra_tf.sparsity.allocation import ALLOCATIONS

    data.DATASETS.build(FLAGS.dataset)
    models.MODELS.build(FLAGS.model)
    objective = objectives.build(FLAGS.objective)
    ALLOCATIONS.build(FLAGS.allocation)
    for spec in attack_specs(FLAGS.attacks):
        attacks.build(spec, **ball_of(objective))
    for name in ("pretrain_epochs", "prune_epochs", "finetune_epochs"):
        at_least(name, 0)
    at_least("batch_size", 1)
    for name in (
        "learning_rate",
        *(f"{p}_learning_rate" for p in ("pretrain", "prune", "finetune")),
    ):
        value = FLAGS[name].value
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name} must be a positive number, not {value}.")
    if not 0 <= FLAGS.weight_decay < float("inf"):
        raise UsageError(f"--weight_decay must be at least 0, not {FLAGS.weight_decay}.")
    if not 0 <= FLAGS.warmup < 1:
        raise UsageError(f"--warmup is a share in [0, 1), not {FLAGS.warmup}.")
    names = (
        "dataset", "model", "objective", "pretrain_epochs", "prune_epochs", "finetune_epochs",
        "batch_size", "learning_rate", "pretrain_learning_rate", "prune_learning_rate",
        "finetune_learning_rate", "optimizer", "weight_decay", "schedule", "warmup", "allocation",
        "attacks", "pretrained",
    )  # fmt: skip
    # What only some binaries leave to choose.
    fixed = {"split": "test", "certify_n": 0, "certify_samples": 0}
    return {**fixed, **{name: FLAGS[name].value for name in names}}


def check_epochs(methods: Sequence[str], pretrained: bool = False) -> None:
    """Refuse epochs that leave a method nothing to do.

    Args:
        methods: names of pruning methods.
        pretrained: whether the methods start from a network that is trained already.

    Raises:
        ValueError: with the method and what it needs.
    """
    from hydra_tf.sparsity.methods import plan_of

    before = 0 if pretrained else FLAGS.pretrain_epochs
    for method in methods:
        plan_of(method, before, FLAGS.prune_epochs, FLAGS.finetune_epochs)


def at_least(name: str, least: int) -> None:
    """Refuse a whole-number flag below its least value.

    Raises:
        UsageError: with the flag and its value.
    """
    if FLAGS[name].value < least:
        raise UsageError(f"--{name} must be at least {least}, not {FLAGS[name].value}.")


def attack_specs(text: str) -> list[str]:
    """Split ``"pgd:steps=50;fgsm"`` into its specs."""
    return [spec.strip() for spec in text.split(";") if spec.strip()]


def ball_of(objective: Any) -> dict[str, Any]:
    """The norm and epsilon of an objective, as defaults for attacks."""
    return {key: getattr(objective, key) for key in ("norm", "epsilon") if hasattr(objective, key)}


def positive_list(name: str, text: Sequence[str], convert: Callable[[str], Any]) -> list[Any]:
    """Convert the entries of a list flag.

    Raises:
        UsageError: for an entry that does not convert.
    """
    try:
        return [convert(entry) for entry in text]
    except ValueError as error:
        raise UsageError(f"--{name}: {text!r} is not a list of numbers.") from error
