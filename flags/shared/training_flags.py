"""The flags of the binaries that train, and their checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from .flag_values import at_least, attack_specs, ball_of
from .launcher import FLAGS, UsageError
from .types import Config

if TYPE_CHECKING:
    from hydra_tf.training import LoopOptions


_PHASES = ("pretrain", "prune", "finetune")
_MANY_STEPS = 1_000_000  # of a phase, so that every density schedule has its first density

# Flags whose values are settings of a run.
_SETTINGS = (
    "dataset", "model", "objective", "pretrain_epochs", "prune_epochs", "finetune_epochs",
    "batch_size", "learning_rate", "pretrain_learning_rate", "prune_learning_rate",
    "finetune_learning_rate", "optimizer", "weight_decay", "schedule", "warmup", "allocation",
    "attacks", "pretrained", "extra", "dtype_policy", "sync_batchnorm", "microbatches",
    "clip_norm", "ema", "jit",
)  # fmt: skip


def define_training() -> None:
    """Define the flags of training."""
    _define_task()
    _define_phases()
    _define_execution()


def _define_task() -> None:
    """Define flags for the data, the network, the objective and the evaluation."""
    flags.DEFINE_string(
        "dataset",
        "mnist_5k",
        "Data set: mnist_5k and digits need no download; mnist, cifar10, cifar100, svhn, imagenet "
        'and imagenette are read by TensorFlow Datasets ("cifar10:data_dir=/path"); folder reads '
        'your own images, one folder per class ("folder:path=/path,size=64"); npz reads an '
        'archive of images and labels ("npz:path=/path").',
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
        "trades:epsilon=8/255,steps=10,beta=6, pgd:epsilon=0.2,ramp=0.5, "
        "trades:attack=(cleverhans_pgd:steps=7),epsilon=0.2 or natural.",
    )
    flags.DEFINE_string(
        "pretrained",
        None,
        "Run directory or .keras file of the network to start from, instead of a new one; {seed} "
        "is replaced by the seed.",
    )
    flags.DEFINE_string(
        "attacks",
        "pgd:steps=50,restarts=10",
        "Attacks of the final report, separated by semicolons; norm and epsilon default to those "
        "of the objective.",
    )
    flags.DEFINE_integer("verbose", 1, "0 is silent, 1 shows progress bars, 2 a line per epoch.")


def _define_phases() -> None:
    """Define flags for epochs, optimizer and learning rates."""
    flags.DEFINE_integer("pretrain_epochs", 100, "Epochs that train all weights.")
    flags.DEFINE_integer("prune_epochs", 20, "Epochs that train the importance scores.")
    flags.DEFINE_integer("finetune_epochs", 100, "Epochs that train the kept weights.")
    flags.DEFINE_integer("batch_size", 128, "Images per step.")
    flags.DEFINE_float("learning_rate", 0.1, "Peak learning rate; fine-tuning uses a tenth of it.")
    for phase in _PHASES:
        flags.DEFINE_float(f"{phase}_learning_rate", None, f"Peak learning rate of {phase}.")
    flags.DEFINE_enum(
        "optimizer", "sgd", ["sgd", "adam", "adamw"], "Optimizer; sgd has momentum 0.9."
    )
    flags.DEFINE_float("weight_decay", 1e-4, "Decoupled weight decay.")
    flags.DEFINE_enum("schedule", "cosine", ["cosine", "constant"], "Learning rate in each phase.")
    flags.DEFINE_float("warmup", 0.05, "Share of each phase over which the learning rate rises.")
    flags.DEFINE_string(
        "allocation",
        None,
        "Density per layer: uniform (as in the paper), uniform_plus, erk, lamp, global or learned, "
        "with parameters, as in erk:min_kept=4; uniform:per_layer=true rounds as the paper does. "
        "By default, flags.train uses global for hydra and erk for methods that do not train "
        "scores, flags.study uniform for all.",
    )
    flags.DEFINE_string(
        "granularity",
        "element",
        "Unit that is kept or pruned as one: element, block, kernel, filter or channel, with "
        "parameters, as in block:size=16; n_m:n=2,m=4 keeps 2 of 4 inputs, with --density=0.5.",
    )
    flags.DEFINE_string(
        "density_schedule",
        None,
        "Density during the prune phase of methods that have one, such as linear, "
        "cubic:end=0.5 or polynomial:initial_density=0.5,power=2; by default --density from the "
        "first step on.",
    )
    flags.DEFINE_enum(
        "density_schedule_phase",
        "prune",
        ["prune", "pretrain"],
        "Phase of --density_schedule; pretrain prunes gradually while weights are trained, by any "
        "method.",
    )
    flags.DEFINE_float(
        "score_perturbation",
        0.0,
        "Norm of the perturbation at which the prune phase trains the scores, as a share of the "
        "norm of the scores of each layer, as in S2AP; a step then takes twice as long.",
    )


def _define_execution() -> None:
    """Define flags for extra images, precision, memory and checkpoints."""
    flags.DEFINE_string(
        "extra",
        None,
        "Data set of extra images, which make up a share of every batch (0.5 by default), such as "
        "npz:path=pseudo_labelled.npz,share=0.5.",
    )
    flags.DEFINE_enum(
        "dtype_policy",
        "float32",
        ["float32", "mixed_float16", "mixed_bfloat16"],
        "Keras dtype policy of the layers; scores stay float32.",
    )
    flags.DEFINE_bool("sync_batchnorm", False, "Compute BatchNorm statistics over all replicas.")
    flags.DEFINE_integer(
        "microbatches",
        1,
        "Slices of a batch that are processed one after the other, to save memory.",
    )
    flags.DEFINE_float(
        "clip_norm",
        None,
        "Largest global L2 norm of the gradient; no limit by default.",
    )
    flags.DEFINE_float(
        "ema",
        None,
        "Decay of a moving average of the weights, which is then evaluated and saved.",
    )
    flags.DEFINE_bool("jit", False, "Compile losses and gradients with XLA.")
    flags.DEFINE_integer("steps_per_execution", 1, "Steps in each call of the compiled graph.")
    flags.DEFINE_float(
        "checkpoint_minutes",
        10.0,
        "Minutes between checkpoints; one is also written after each epoch.",
    )


def methods_help(subject: str) -> str:
    """Return the help text of a flag for pruning methods; it lists what is registered."""
    from hydra_tf.sparsity.methods import METHODS
    from hydra_tf.sparsity.score_init import SCORE_INITS

    return (
        f"{subject}: {', '.join(METHODS.names())}. Each accepts joint=true, to train the weights "
        "in the prune phase too, best with --density_schedule=cubic, and a score initialisation, "
        f"as in hydra:score_init=magnitude: {', '.join(SCORE_INITS.names())}."
    )


def training_settings(allocation: str) -> Config:
    """Check the training flags without TensorFlow, and return their values.

    Args:
        allocation: spec of the allocation if ``--allocation`` is left out.

    Raises:
        UsageError, ValueError, TypeError: for an invalid value.
    """
    if FLAGS.allocation is None:
        FLAGS.allocation = allocation
    _check_specs()
    _check_numbers()
    # Settings that only some binaries have flags for.
    fixed = {"split": "test", "certify_n": 0, "certify_samples": 0}
    settings = {**fixed, **{name: FLAGS[name].value for name in _SETTINGS}}
    # Configs of older runs do not have these.
    if FLAGS.density_schedule is not None:
        settings["density_schedule"] = FLAGS.density_schedule
    if FLAGS.granularity != "element":
        settings["granularity"] = FLAGS.granularity
    if FLAGS.density_schedule_phase != "prune":
        settings["density_schedule_phase"] = FLAGS.density_schedule_phase
    if FLAGS.score_perturbation:
        settings["score_perturbation"] = FLAGS.score_perturbation
    return settings


def _check_specs() -> None:
    """Check the specs of data, model, objective, allocation and attacks."""
    from hydra_tf import attacks, data, models, objectives
    from hydra_tf.data import extra_images as mixing
    from hydra_tf.sparsity.allocation import ALLOCATIONS
    from hydra_tf.sparsity.density_schedules import DENSITY_SCHEDULES, OneShot
    from hydra_tf.sparsity.granularity import GRANULARITIES

    data.DATASETS.build(FLAGS.dataset)
    models.MODELS.build(FLAGS.model)
    objective = objectives.build(FLAGS.objective)
    ALLOCATIONS.build(FLAGS.allocation)
    GRANULARITIES.build(FLAGS.granularity)
    schedule = FLAGS.density_schedule
    if schedule is not None:
        DENSITY_SCHEDULES.build(schedule)
    constant = schedule is None or DENSITY_SCHEDULES.build(schedule) == OneShot()
    if FLAGS.density_schedule_phase == "pretrain" and constant:
        raise UsageError(
            "--density_schedule_phase=pretrain needs a --density_schedule that changes the "
            "density, such as cubic."
        )
    if FLAGS.extra:
        spec, share = mixing.split_share(FLAGS.extra)
        data.DATASETS.build(spec)
        mixing.extra_per_batch(share, FLAGS.batch_size)
    for spec in attack_specs(FLAGS.attacks):
        attacks.build(spec, **ball_of(objective))


def _check_numbers() -> None:
    """Check that the values of numeric flags are in their ranges."""
    for phase in _PHASES:
        at_least(f"{phase}_epochs", 0)
    for name in ("batch_size", "microbatches", "steps_per_execution"):
        at_least(name, 1)
    for name in ("learning_rate", "clip_norm", *(f"{phase}_learning_rate" for phase in _PHASES)):
        value = FLAGS[name].value
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name} must be a positive number, not {value}.")
    if not 0 <= FLAGS.checkpoint_minutes < float("inf"):
        raise UsageError(
            f"--checkpoint_minutes must be at least 0, not {FLAGS.checkpoint_minutes}."
        )
    if FLAGS.ema is not None and not 0 < FLAGS.ema < 1:
        raise UsageError(f"--ema is a decay in (0, 1), not {FLAGS.ema}.")
    if FLAGS.microbatches > FLAGS.batch_size:
        raise UsageError(
            f"--microbatches={FLAGS.microbatches} is more than the {FLAGS.batch_size} images of a "
            "batch."
        )
    if not 0 <= FLAGS.weight_decay < float("inf"):
        raise UsageError(f"--weight_decay must be at least 0, not {FLAGS.weight_decay}.")
    if not 0 <= FLAGS.score_perturbation < float("inf"):
        raise UsageError(
            f"--score_perturbation must be at least 0, not {FLAGS.score_perturbation}."
        )
    if not 0 <= FLAGS.warmup < 1:
        raise UsageError(f"--warmup is a share in [0, 1), not {FLAGS.warmup}.")


def check_granularity(densities: Sequence[float], allocations: Sequence[str]) -> None:
    """Check that ``--granularity`` allows the densities and allocations of the networks.

    Args:
        densities: shares of the weights to keep.
        allocations: specs of the allocations.

    Raises:
        ValueError: for a density, that of the begin of ``--density_schedule`` included, or an
            allocation that the granularity does not allow.
    """
    from hydra_tf.sparsity.allocation import ALLOCATIONS
    from hydra_tf.sparsity.density_schedules import DENSITY_SCHEDULES
    from hydra_tf.sparsity.granularity import GRANULARITIES

    part = GRANULARITIES.build(FLAGS.granularity)
    schedule = DENSITY_SCHEDULES.build(FLAGS.density_schedule or "one_shot")
    for density in densities:
        first = schedule(0, _MANY_STEPS, density) or 1.0
        for allocation in allocations:
            part.check_density(density, ALLOCATIONS.build(allocation))
            part.check_density(first, ALLOCATIONS.build(allocation))


def check_epochs(
    methods: Sequence[str], pretrained: bool = False, allocations: Sequence[str] = ()
) -> None:
    """Check that every pruning method has epochs to run.

    Args:
        methods: specs of pruning methods.
        pretrained: whether the methods start from a pretrained network.
        allocations: specs of the allocations; that of ``--allocation`` when left out.

    Raises:
        UsageError: for a density schedule or a perturbation of scores without a method that has
            its phase.
        ValueError: for an unknown method, or one without the epochs that it needs; for learned
            densities without a prune phase, with a density schedule or with perturbed scores.
    """
    from hydra_tf.sparsity.learned import require_prune_phase
    from hydra_tf.sparsity.methods import METHODS, plan_of

    pretrain_epochs = 0 if pretrained else FLAGS.pretrain_epochs
    scheduled = FLAGS.density_schedule_phase
    if scheduled == "pretrain" and not pretrain_epochs:
        raise UsageError(
            "--density_schedule_phase=pretrain needs pretraining in the run itself; set "
            "--pretrain_epochs of flags.train (the methods of a study share one dense network)."
        )
    lengths = (pretrain_epochs, FLAGS.prune_epochs, FLAGS.finetune_epochs)
    plans = [plan_of(method, *lengths, gradual=scheduled == "pretrain") for method in methods]
    pruning = [METHODS.build(m) for m, plan in zip(methods, plans, strict=True) if "prune" in plan]
    scheduled_in_prune = scheduled == "prune" and FLAGS.density_schedule is not None
    trains_scores = any(part.trains_scores for part in pruning)
    missing = {
        "density_schedule": scheduled_in_prune and not pruning,
        "score_perturbation": FLAGS.score_perturbation > 0 and not trains_scores,
    }
    for name in (name for name, is_missing in missing.items() if is_missing):
        trained = " that trains scores" if name == "score_perturbation" else ""
        raise UsageError(
            f"--{name}={FLAGS[name].value} needs a prune phase{trained}, which "
            f"{', '.join(methods)} with --prune_epochs={FLAGS.prune_epochs} does not have."
        )
    for allocation in allocations or [FLAGS.allocation]:
        for method, plan in zip(methods, plans, strict=True):
            require_prune_phase(
                allocation, FLAGS.density_schedule, plan, method, FLAGS.score_perturbation
            )


def loop_options() -> LoopOptions:
    """Return the options of :func:`hydra_tf.training.train`."""
    from hydra_tf.training import LoopOptions, StepOptions

    return LoopOptions(
        step=StepOptions(FLAGS.microbatches, FLAGS.clip_norm, FLAGS.jit),
        steps_per_execution=FLAGS.steps_per_execution,
        average=FLAGS.ema,
        checkpoint_seconds=60 * FLAGS.checkpoint_minutes,
    )
