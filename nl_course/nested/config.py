"""The sizes of a model with clocked levels: one list of levels for each block, and how the levels learn."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from nl_course.errors import CourseError, check_bool, check_choice, check_int, check_min, shortened
from nl_course.memories import MEMORIES, check_options, saved_options
from nl_course.renamed import translate

VARIANTS = ("sequential", "nested", "independent")
REDUCTIONS = ("sum", "mean")
ACTIVATIONS = ("gelu", "silu", "relu", "swiglu")


@dataclass(frozen=True)
class LevelConfig:
    """One MLP of a continuum memory system.

    `hidden` is its width. It takes one step every `chunk` tokens; 0 (or None) is never. `rate` is its inner step size.
    The outer loop learns the rate as a positive number, unless `learn_rate` is off.
    Raises CourseError for a size, a rate or an activation that makes no sense.
    """

    hidden: int
    chunk: int = 0
    rate: float = 0.01
    learn_rate: bool = True
    activation: str = "gelu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "chunk", self.chunk or 0)  # None means 0: never
        check_int("hidden", self.hidden, 1)
        check_int("chunk", self.chunk, 0)
        check_min("rate", self.rate, 0)
        check_bool("learn_rate", self.learn_rate)
        check_choice("activation", self.activation, ACTIVATIONS)

    @property
    def first_columns(self) -> int:
        """Columns of the first matrix: with "swiglu" gate and value stand side by side in it."""
        return 2 * self.hidden if self.activation == "swiglu" else self.hidden

    def elements(self, width: int) -> int:
        """How many numbers the level's two matrices hold in a model of this width."""
        return width * (self.first_columns + self.hidden)


Levels = tuple[LevelConfig, ...]  # the levels of one block


@dataclass(frozen=True)
class NestedConfig:
    """A decoder whose blocks are a memory, then a continuum memory system (arXiv 2512.24695, eq. 70 to 74).

    `levels`: the levels of a block, in the order in which a token passes them (the paper puts the fastest first). Give
    one tuple for all `layers` blocks, or one such tuple for each block.

    `variant`: how levels are joined and where they start. "sequential" (eq. 73) is a chain. "nested" (eq. 72) is a
    chain in which a level goes back to its start when the context of the next slower level ends. "independent" (eq. 74)
    puts the levels side by side and adds them up with learned weights.

    `reduction`: a level's step is its rate times the "sum" or the "mean" of the gradients of its chunk.
    `clip`: the largest norm, for each sequence, of the gradients of all matrices that move at one boundary, taken
    together (after the mean, before the rate). None is no limit.
    `truncate`: the outer gradient passes through at most this many boundaries in a row; earlier updates count as
    constants. None is all of them.
    `first_order`: inner gradients count as constants.
    `post_norm` puts a second norm behind each memory and each level, before its output is added back.
    The other fields are those of `nl_course.model.ModelConfig`.

    Raises CourseError for a value that makes no sense.
    """

    vocab: int = 256
    width: int = 128
    layers: int = 4
    heads: int = 4
    levels: Levels | tuple[Levels, ...] = (LevelConfig(512),)
    memory: str = "attention"
    options: Mapping = field(default_factory=dict)
    conv: int = 0
    tied: bool = True
    variant: str = "sequential"
    reduction: str = "sum"
    clip: float | None = None
    truncate: int | None = None
    first_order: bool = False
    post_norm: bool = False
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("vocab", "width", "layers", "heads"):
            check_int(name, getattr(self, name), 1)
        check_int("conv", self.conv, 0)
        check_min("norm_eps", self.norm_eps, 0)
        check_choice("memory", self.memory, MEMORIES)
        check_options(self.options)
        check_choice("variant", self.variant, VARIANTS)
        check_choice("reduction", self.reduction, REDUCTIONS)
        if self.clip is not None and not check_min("clip", self.clip, 0) > 0:
            raise CourseError("clip must be larger than 0; None is no limit.")
        if self.truncate is not None:
            check_int("truncate", self.truncate, 0)
        for name in ("tied", "first_order", "post_norm"):
            check_bool(name, getattr(self, name))
        object.__setattr__(self, "levels", self._levels_of_each_block())

    def _levels_of_each_block(self) -> tuple[Levels, ...]:
        """`levels` as one tuple for each block."""
        if not isinstance(self.levels, (tuple, list)):
            raise CourseError(f"levels must be a tuple of LevelConfig or of such tuples, not {shortened(self.levels)}.")
        blocks = tuple(self.levels)
        if all(isinstance(level, LevelConfig) for level in blocks):
            blocks = (blocks,) * self.layers
        # What is neither a level nor a tuple of levels is refused below.
        blocks = tuple(tuple(block) if isinstance(block, (tuple, list)) else (block,) for block in blocks)
        if len(blocks) != self.layers:
            raise CourseError(f"levels are given for {len(blocks)} blocks, and there are {self.layers} layers.")
        for block in blocks:
            if not block or not all(isinstance(level, LevelConfig) for level in block):
                raise CourseError("every block needs at least one LevelConfig in levels.")
        return blocks

    def to_dict(self) -> dict:
        """The config as plain dicts and tuples, ready for JSON."""
        return {**asdict(self), "options": saved_options(self.memory, self.options)}

    @classmethod
    def from_dict(cls, values: Mapping) -> "NestedConfig":
        """The config that `to_dict` saved. Raises CourseError for a field it does not know."""
        _, values = translate("NestedConfig", values)
        known = [f.name for f in fields(cls)]
        for name in values:
            check_choice("model setting", name, known)
        if "levels" in values:
            blocks = []
            for saved_levels in values["levels"]:
                blocks.append(tuple(LevelConfig(**level) for level in saved_levels))
            values["levels"] = tuple(blocks)
        return cls(**values)
