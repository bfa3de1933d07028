"""What a model with clocked levels is made of: sizes, one list of levels a block, and how the levels learn."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.memories import MEMORIES
from nl_course.renamed import translate

VARIANTS = ("sequential", "nested", "independent")
REDUCTIONS = ("sum", "mean")
ACTIVATIONS = ("gelu", "silu", "relu", "swiglu")


@dataclass(frozen=True)
class LevelConfig:
    """One MLP of a continuum memory system: `hidden` wide; `chunk` tokens between its updates, 0 for a level that never
    moves; `rate` is its inner step size, learnt by the outer loop as a positive number unless `learn_rate` is off."""

    hidden: int
    chunk: int = 0
    rate: float = 0.01
    learn_rate: bool = True
    activation: str = "gelu"

    def __post_init__(self):
        object.__setattr__(self, "chunk", self.chunk or 0)  # None is 0: never
        check_int("hidden", self.hidden, 1)
        check_int("chunk", self.chunk, 0)
        if not isfinite(check_min("rate", self.rate, 0)):
            raise CourseError(f"rate must be a finite number, not {self.rate}.")
        check_choice("activation", self.activation, ACTIVATIONS)

    @property
    def first_columns(self) -> int:
        """Columns of the first matrix: for "swiglu" gate and value stand side by side in it."""
        return 2 * self.hidden if self.activation == "swiglu" else self.hidden

    def elements(self, width: int) -> int:
        """Numbers in the level's matrices."""
        return width * (self.first_columns + self.hidden)


Levels = tuple[LevelConfig, ...]


@dataclass(frozen=True)
class NestedConfig:
    """A decoder whose blocks are a memory, then a continuum memory system.

    `levels`: the levels of a block in the order in which a token passes them (the paper's fastest first), the same in
    all `layers` blocks; or one such tuple for each block. `variant`: how levels are joined and where they start
    (arXiv 2512.24695, eq. 72-74): "sequential" chain; "nested", a chain in which a level goes back to its start when
    the next slower level's context ends; "independent", side by side and summed with learnt weights.
    `reduction`: a level's step is its rate times the "sum" or the "mean" of its chunk's gradients. `clip`: the largest
    norm, for each sequence, of the gradients of all matrices that move at one boundary, together (after the mean,
    before the rate); None for no limit. `truncate`: the outer gradient passes through at most so many boundaries in a
    row, earlier updates counting as constants; None for all. `first_order`: inner gradients count as constants.
    `post_norm` puts a second norm behind each memory and level, before it is added back. The other fields are those of
    `nl_course.model.ModelConfig`.
    """

    vocab: int = 256
    width: int = 128
    layers: int = 4
    heads: int = 4
    levels: tuple[LevelConfig, ...] | tuple[Levels, ...] = (LevelConfig(512),)
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

    def __post_init__(self):
        for name in ("vocab", "width", "layers", "heads"):
            check_int(name, getattr(self, name), 1)
        check_int("conv", self.conv, 0)
        check_choice("memory", self.memory, MEMORIES)
        check_choice("variant", self.variant, VARIANTS)
        check_choice("reduction", self.reduction, REDUCTIONS)
        if self.clip is not None and not check_min("clip", self.clip, 0) > 0:
            raise CourseError("clip must be larger than 0; None is no limit.")
        if self.truncate is not None:
            check_int("truncate", self.truncate, 0)
        object.__setattr__(self, "levels", self._a_tuple_for_each_block())

    def _a_tuple_for_each_block(self) -> tuple[Levels, ...]:
        levels = tuple(self.levels)
        if all(isinstance(level, LevelConfig) for level in levels):
            levels = (levels,) * self.layers
        levels = tuple(tuple(block) for block in levels)
        if len(levels) != self.layers:
            raise CourseError(f"levels are given for {len(levels)} blocks, and there are {self.layers} layers.")
        for block in levels:
            if not block or not all(isinstance(level, LevelConfig) for level in block):
                raise CourseError("every block needs at least one LevelConfig in levels.")
        return levels

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> "NestedConfig":
        """The config saved by `to_dict`; raises CourseError for a field it does not know."""
        _, values = translate("NestedConfig", values)
        for name in values:
            check_choice("model setting", name, [f.name for f in fields(cls)])
        if "levels" in values:
            values["levels"] = tuple(tuple(LevelConfig(**level) for level in block) for block in values["levels"])
        return cls(**values)
