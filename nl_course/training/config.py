"""What a training run is asked for: every setting, its unit and its default."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from nl_course.errors import CourseError, check_bool, check_choice, check_int, check_min, shortened
from nl_course.nested.outer import inner_rate_scale
from nl_course.optimizers import OPTIMIZERS
from nl_course.optimizers.base import check_pair
from nl_course.renamed import translate

PRECISIONS = ("auto", "fp32", "bf16")
# Settings that do not change what is learned, only what is written down and when. A resumed run may change these.
# `checkpoint_blocks` decides how gradients are computed, and changes none of them.
REPORTING = ("log_every", "save_every", "evaluate_every", "checkpoint_blocks")

LARGEST_RATE = 1e30  # what optimizers make of a rate must still fit a 32-bit number


def _setting(default: Any, meaning: str) -> Any:
    """A field with a default, and a meaning that `nl-course train --help` prints."""
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class TrainingConfig:
    """All that decides how a run comes out; the last three settings only decide how often it reports.

    Sizes are in rows and tokens, rates are per step. Raises CourseError for a setting that cannot be used.
    """

    steps: int = _setting(1000, "steps of the whole run")
    batch_size: int = _setting(16, "rows per step, over all micro-batches and all processes")
    length: int = _setting(256, "tokens per row")
    learning_rate: float = _setting(2e-3, "at the peak of the schedule")
    warmup: int = _setting(50, "steps up to the peak")
    final_rate: float = _setting(0.1, "learning rate of the last step, as a share of the peak")
    weight_decay: float = _setting(0.1, "on matrices, embeddings and output heads; on no gain, bias or other vector")
    betas: tuple[float, float] = _setting((0.9, 0.95), "of Adam, wherever the optimizer has it")
    optimizer: str = _setting("adamw", f"one of: {', '.join(OPTIMIZERS)}")
    optimizer_options: dict[str, Any] = field(default_factory=dict)  # further arguments of the optimizer's class
    clip: float = _setting(1.0, "largest norm of all gradients together; 0 for no limit")
    accumulate: int = _setting(1, "micro-batches per step")
    precision: str = _setting("auto", "fp32, bf16 (autocast), or auto: bf16 on a GPU that has it")
    inner_warmup: float = _setting(0.0, "share of the steps in which inner learning rates grow from a tenth to 1")
    recompute: bool = _setting(False, "for levels that learn: compute segments twice, to hold less memory")
    checkpoint_blocks: bool = _setting(False, "compute each block twice in a step, to hold less memory")
    reset_at: int | None = _setting(None, "token that ends a document, where the state begins anew; none by default")
    seed: int = _setting(0, "of everything that is drawn at random")
    log_every: int = _setting(1, "steps between lines of metrics.jsonl")
    save_every: int = _setting(200, "steps between checkpoints; 0 for one at the end only")
    evaluate_every: int = _setting(100, "steps between evaluations on held-out data; 0 for one at the end only")

    def __post_init__(self):
        for name in ("steps", "batch_size", "length", "accumulate", "log_every"):
            check_int(name, getattr(self, name), 1)
        for name in ("warmup", "save_every", "evaluate_every", "seed"):
            check_int(name, getattr(self, name))
        for name in ("learning_rate", "final_rate", "weight_decay", "clip"):
            if check_min(name, getattr(self, name), 0) > LARGEST_RATE:
                raise CourseError(f"{name} must be at most {LARGEST_RATE:g}, not {getattr(self, name):g}.")
        inner_rate_scale(0, 1, self.inner_warmup)  # refuses a warm-up that is no share
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_pair("betas", self.betas)
        # JSON has lists only. A config that was read from a file must equal the one that was written.
        object.__setattr__(self, "betas", tuple(self.betas))
        check_bool("recompute", self.recompute)
        check_bool("checkpoint_blocks", self.checkpoint_blocks)
        if self.reset_at is not None:
            check_int("reset_at", self.reset_at)
        if not isinstance(self.optimizer_options, Mapping):
            options = shortened(self.optimizer_options)
            raise CourseError(f"optimizer_options must be a dict of options by name, not {options}.")
        if self.batch_size % self.accumulate:
            raise CourseError(
                f"batch_size {self.batch_size} does not split into {self.accumulate} equal micro-batches."
            )

    def to_dict(self) -> dict[str, Any]:
        """Every setting by name, as run.json and checkpoints keep it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainingConfig":
        """The config with these settings, the others at their defaults; names of older files are understood.

        Raises CourseError for an unknown name.
        """
        if not isinstance(values, dict):
            raise CourseError(f"training settings are values by name, not {shortened(values)}.")
        _, values = translate("TrainingConfig", values)
        known = [setting.name for setting in fields(cls)]
        for name in values:
            check_choice("training setting", name, known)
        return cls(**values)
