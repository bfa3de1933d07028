"""The family on one page, as data: what each memory chose, and where the course builds it.

A memory makes four choices: what it writes into, the loss that a write descends, what is kept, and the optimizer that
takes the step. A fifth column says what can be computed at once. `tools/index` makes the tables of the notebooks and
of the glossary from these rows. Rows of memories that the course does not build name the nearest one that it does, and
the cells that differ.

Behrouz et al. 2025 (MIRAS, arXiv 2504.13173) and Wang, Shi and Fox 2025 (arXiv 2501.12352) draw such tables; the cells
here are ours, and say what the course's own code does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nl_course.errors import check_choice
from nl_course.family.reference import ComposedConfig
from nl_course.notebooks import number_of

# The choices that are named in a row, beside the window and the order of forgetting.
_NAMED = ("memory", "loss", "retention", "optimizer")
# Phrases that stand in several cells.
ALL_PAIRS = "list of all pairs"
INNER, SQUARED = "inner product", "squared error"
ONE_STEP = "one step of descent per token"
EXACT = "chunks, exactly"
PART = "chunks that are part of the rule"
SCALAR = "one gate per token and head"


@dataclass(frozen=True)
class Row:
    """One memory of the family. The five cells are words for a table.

    `registered` are its names in `nl_course.memories.MEMORIES`. `function` ("package.module:Name") is its definition,
    and `cell` ("03_memory_that_learns#its-id") where a notebook builds it. A row that the course does not build has
    neither, but `source`, how the source was read (`grade`), and what would `change` beside a row of the course.
    `choices` are the options of `ComposedConfig` with which the picker is this memory, more than one where the row
    spans several; () where it cannot be.
    """

    name: str
    memory: str
    loss: str
    retention: str
    optimizer: str
    parallel: str
    registered: tuple[str, ...] = ()
    function: str = ""
    cell: str = ""
    source: str = ""
    grade: str = ""
    change: str = ""
    choices: tuple[Mapping[str, str | int], ...] = ()

    @property
    def here(self) -> bool:
        """Whether the course builds it."""
        return bool(self.function or self.cell)

    @property
    def notebook(self) -> str:
        """The number of the notebook that builds it, such as "03", also where that is a further one; "" for none."""
        return number_of(self.cell.partition("#")[0])


def _choices(
    memory: str = "matrix",
    loss: str = "squared",
    retention: str = "none",
    optimizer: str = "descent",
    forget: str = "last",
    windowed: bool = False,
) -> Mapping[str, str | int]:
    """Options of `ComposedConfig`; `windowed` stands for any window of more than one pair."""
    options = dict(memory=memory, loss=loss, retention=retention, optimizer=optimizer, forget=forget)
    return MappingProxyType({**options, "window": 2 if windowed else 1})


ROWS: tuple[Row, ...] = (
    Row(
        "attention", ALL_PAIRS, "squared error, weighted by exp(q · k)", "none, or a window", "solved: a weighted mean",
        "all tokens at once",
        registered=("attention",),
        function="nl_course.memories.attention.attention:attention_reference",
        cell="01_attention#attention-003",
        source="arXiv 1706.03762",
    ),
    Row(
        "latent attention (MLA)", "list of one short vector per token", "squared error, weighted by exp(q · k)", "none",
        "solved: a weighted mean", "all tokens at once",
        registered=("latent-attention",),
        function="nl_course.memories.attention.latent:LatentAttention",
        cell="01_attention#attention-003",
        source="arXiv 2405.04434",
    ),
    Row(
        "linear attention", "matrix", INNER, "none", "one step of size 1 per token", EXACT,
        registered=("linear",),
        function="nl_course.memories.linear.linear:linear_attention_reference",
        cell="03_memory_that_learns#26-attention-without-the-s",
        source="arXiv 2006.16236",
        choices=(_choices(loss="inner-product"),),
    ),
    Row(
        "RetNet", "matrix", INNER, "one fixed number per head", "one step of size 1 per token", EXACT,
        registered=("retnet",),
        function="nl_course.memories.linear.linear:retention_reference",
        cell="03_memory_that_learns#46-hebb-and-attention-toss",
        source="arXiv 2307.08621",
        choices=(_choices(loss="inner-product", retention="scalar"),),
    ),
    Row(
        "DeltaNet", "matrix", SQUARED, "none", ONE_STEP, EXACT,
        registered=("delta",),
        function="nl_course.memories.linear.delta:delta_reference",
        cell="03_memory_that_learns#69-the-layers-that-people",
        source="arXiv 2406.06484",
        choices=(_choices(),),
    ),
    Row(
        "Gated DeltaNet", "matrix", SQUARED, f"{SCALAR}, before the look-up", ONE_STEP, EXACT,
        registered=("gated-delta",),
        function="nl_course.memories.linear.delta:gated_delta_reference",
        cell="03_memory_that_learns#69-the-layers-that-people",
        source="arXiv 2412.06464",
        choices=(_choices(retention="scalar", forget="first"),),
    ),
    Row(
        "Kimi Delta Attention (KDA)", "matrix", SQUARED, "one gate per token and key channel, before the look-up",
        ONE_STEP, EXACT,
        registered=("kda",),
        function="nl_course.memories.linear.kda:kda_reference",
        cell="03b_inside_matrix_memories#72a-a-forget-gate-for-every",
        source="arXiv 2510.26692",
        choices=(_choices(retention="channel", forget="first"),),
    ),
    Row(
        "TTT-Linear", "matrix with LayerNorm and residual path", SQUARED, "none", ONE_STEP, PART,
        registered=("ttt-linear",),
        function="nl_course.memories.ttt.reference:learn",
        cell="04_test_time_training#12-a-nested-loop-of-one-we",
        source="arXiv 2407.04620",
    ),
    Row(
        "TTT-MLP", "two layers with LayerNorm and residual path", SQUARED, "none", ONE_STEP, PART,
        registered=("ttt-mlp",),
        function="nl_course.memories.ttt.reference:learn",
        cell="04_test_time_training#12-a-nested-loop-of-one-we",
        source="arXiv 2407.04620",
    ),
    Row(
        "Titans' memory (LMM)", "MLP of one to four layers", SQUARED, f"{SCALAR}, after the look-up",
        "descent with momentum", PART,
        registered=("titans",),
        function="nl_course.memories.titans.reference:reference",
        cell="05_titans#05-and-here-is-the-whole-lo",
        source="arXiv 2501.00663",
        choices=(
            _choices(memory="mlp", retention="scalar", optimizer="momentum"),
            _choices(retention="scalar", optimizer="momentum"),
        ),
    ),
    Row(
        "MAC, MAG, MAL", "the LMM, and a list of the last pairs", SQUARED, f"{SCALAR}; the list ends at a window",
        "descent with momentum; the list is solved", PART,
        registered=("mac", "mag", "mal"),
        function="nl_course.memories.titans.mac:MAC",
        cell="05_titans#101-three-ways-to-wire-it-a",
        source="arXiv 2501.00663",
    ),
    Row(
        "continuum memory system", "MLPs in a row", "the model's next-token loss", "none", "one step per period",
        "a period of tokens",
        function="nl_course.nested.model:NestedLanguageModel",
        cell="06_nested_learning#15-clocks-a-continuum-memo",
        source="arXiv 2512.24695",
    ),
    Row(
        "Integral DeltaNet", "two matrices, a fast one and a slow one", f"{SQUARED}; the slow one has none",
        "the fast one all, the slow one a mean over time", f"{ONE_STEP}, of the fast one", "not worked out here",
        cell="06b_optimizers_as_memories#two-clocks",
        source="arXiv 2611.32063 (November 2026), not read",
    ),
    Row(
        "self-modifying Titans (HOPE)", "six MLPs or matrices", "squared error, with values that they make themselves",
        "a gate that a memory makes", "descent that erases first, with a step that a memory makes", PART,
        registered=("self-modifying",),
        function="nl_course.memories.hope.reference:write_token",
        cell="07_hope#08-the-ladder-one-memory-be",
        source="arXiv 2512.24695",
    ),
    Row(
        "TTT-E2E", "MLPs of the last blocks, and a list of the last pairs", "the model's next-token loss", "none",
        "one clipped step per chunk", PART,
        function="nl_course.nested.e2e:e2e_config",
        cell="08_does_it_remember#05-training-on-the-text-be",
        source="arXiv 2512.23675",
    ),
    Row(
        "In-Place TTT", "output matrix of one MLP of a finished model",
        f"{INNER} or {SQUARED}, with the next token's embedding", "none", "one step per chunk", PART,
        function="nl_course.nested.in_place:InPlace",
        cell="08c_inside_ttt_e2e#finished-model",
        source="arXiv 2604.06169",
    ),
    Row(
        "cached states (Memory Caching)", "a memory of fixed size, and copies of its older states", "that memory's",
        "that memory's; the copies are kept as they were", "that memory's", "segments, whose ends are part of the rule",
        registered=("cached",),
        function="nl_course.memories.cached.layer:Cached",
        cell="09b_other_yardsticks#keep-what-it-was",
        source="arXiv 2602.24281",
    ),
    # -- not here ------------------------------------------------------------------------------------------------------
    Row(
        "Mamba-2", "matrix", INNER, SCALAR, "one step per token, whose size also sets the gate", EXACT,
        source="arXiv 2405.21060",
        grade="read in its authors' code",
        change="RetNet with a gate and a step that each token chooses",
        choices=(_choices(loss="inner-product", retention="scalar"),),
    ),
    Row(
        "Mamba-3", "matrix of complex numbers", INNER, "a gate and a rotation per token",
        "a step over this pair and the one before", EXACT,
        source="arXiv 2603.15569 (March 2026)",
        grade="read in the abstract and in notes by others",
        change="Mamba-2 with a retention that also turns, and writes of two pairs; as MIMO several pairs per token",
    ),
    Row(
        "RWKV-7", "matrix", SQUARED, "one gate per token and channel",
        "one step per token, of its own size per channel", EXACT,
        source="arXiv 2503.14456 (March 2025)",
        grade="read in code (flash-linear-attention)",
        change="KDA with an erase that has a key of its own, and a step per channel",
    ),
    Row(
        "Mesa (MesaNet)", "two matrices: sums of k'k and of k'v", "squared error over all pairs, with a ridge", SCALAR,
        "solved anew for every token, by conjugate gradients", EXACT,
        source="arXiv 2506.05233 (June 2025)",
        grade="read in code (flash-linear-attention)",
        change="DeltaNet with the optimizer replaced by the solution; a second matrix pays for it",
    ),
    Row(
        "Moneta (MIRAS)", "two layers with LayerNorm and residual path", "sum of |error|^p, p = 3",
        "gate per channel; weights are divided by a power of their q-norm, q = 4", ONE_STEP, PART,
        source="arXiv 2504.13173 (April 2025)",
        grade="second-hand: notes and code by others",
        change="TTT-MLP with another loss and another retention; the picker has the loss (l3)",
    ),
    Row(
        "Yaad (MIRAS)", "two layers with LayerNorm and residual path", "Huber's", "gate per channel", ONE_STEP, PART,
        source="arXiv 2504.13173 (April 2025)",
        grade="second-hand: notes and code by others",
        change="TTT-MLP with Huber's loss and a gate; the picker has both (without LayerNorm and residual path)",
        choices=(_choices(memory="mlp", loss="huber", retention="channel"),),
    ),
    Row(
        "Memora (MIRAS)", "two layers with LayerNorm and residual path", SQUARED,
        "KL divergence: weights are a softmax of their faded logarithms", ONE_STEP, PART,
        source="arXiv 2504.13173 (April 2025)",
        grade="second-hand: notes and code by others",
        change="TTT-MLP with another retention, which keeps all weights positive",
    ),
    Row(
        "OmegaNet (ATLAS)", "MLP on polynomial features", "squared error, summed over the last c pairs", SCALAR,
        ONE_STEP, PART,
        source="arXiv 2505.23735 (May 2025)",
        grade="second-hand: notes and code by others",
        change="Titans' memory with a wider loss and no momentum; the picker has it, without the features",
        choices=(_choices(memory="mlp", retention="scalar", windowed=True),),
    ),
    Row(
        "ATLAS", "MLP on polynomial features", "squared error, summed over the last c pairs", SCALAR,
        "Muon: Newton-Schulz of the momentum", PART,
        source="arXiv 2505.23735 (May 2025)",
        grade="second-hand: notes and code by others",
        change="Titans' memory with a wider loss and Muon; the picker has both, without the features",
        choices=(_choices(memory="mlp", retention="scalar", optimizer="muon", windowed=True),),
    ),
    Row(
        "LaCT", "SwiGLU network", INNER, "each row is brought back to its first length",
        "one step per chunk: descent, momentum or Muon", "chunks of 2k to 1M tokens, part of the rule",
        source="arXiv 2505.23884 (May 2025)",
        grade="read in its authors' code",
        change="TTT-MLP with chunks a hundred times as large and Muon inside; it reads a chunk before it writes it",
    ),
)  # fmt: skip


def row_of(config: ComposedConfig) -> Row | None:
    """The first row that these choices make, or None for a memory without a name. The order of forgetting and look-up
    does not matter without retention, and nor with a loss whose gradient does not depend on the memory."""
    forget_counts = config.retention != "none" and (config.loss, config.memory) != ("inner-product", "matrix")
    for row in ROWS:
        for choices in row.choices:
            same = all(getattr(config, name) == choices[name] for name in _NAMED)
            windows = (config.window > 1) == (choices["window"] > 1)
            order = not forget_counts or config.forget == choices["forget"]
            if same and windows and order:
                return row
    return None


def rows_of(notebook: str) -> tuple[Row, ...]:
    """The rows that a notebook builds, by its number, such as "03". Raises CourseError for a number without rows."""
    check_choice("notebook", notebook, sorted({row.notebook for row in ROWS if row.cell}))
    return tuple(row for row in ROWS if row.notebook == notebook)


def rows_not_here() -> tuple[Row, ...]:
    """The rows of memories that the course does not build."""
    return tuple(row for row in ROWS if not row.here)
