"""TTT-E2E as a continuum memory system: a transformer that goes on training on what it reads.

Tandon, Dalal, Li et al. 2025, "End-to-End Test-Time Training for Long Context" (arXiv 2512.23675), section 2:

    levels        one that moves every b tokens, then one that never does: h = h + post'(fast(pre'(h))), then the MLP
    which blocks  the last quarter, the suffix; the others have only the second level
    loss          the model's own next-token loss, through everything above
    step          W <- W - eta clip(mean of the chunk's gradients), clipped over all fast matrices of a text together
    start         learned through the steps that are made from it; eta is not learned, and norms do not move
    mixer         attention with a sliding window in every block, norms on queries and keys, RoPE of base 500,000
    norms         before and behind each part

So nothing here is a machine of its own: `e2e_config` fills in a `NestedConfig`. All MLPs are narrowed until the model
has about as many weights as the plain transformer that its preset stands beside.
"""

from dataclasses import replace
from typing import Any, NamedTuple

from nl_course.errors import CourseError, check_int
from nl_course.nested.config import LevelConfig, NestedConfig
from nl_course.nested.model import NestedLanguageModel
from nl_course.seeding import seeded


def e2e_config(
    *,
    width: int,
    layers: int,
    heads: int,
    hidden: int,
    window: int,
    chunk: int,
    vocab: int = 256,
    suffix: int | None = None,
    fast_hidden: int | None = None,
    rate: float = 1.0,
    clip: float | None = 1.0,
    rope_theta: float = 500_000.0,
    norm_eps: float = 1e-6,
    **options: Any,
) -> NestedConfig:
    """The config of a TTT-E2E model.

    `hidden` is the width of the static MLPs and, unless `fast_hidden` is given, of the fast ones. These stand in the
    last `suffix` blocks (a quarter of them, rounded, at least one) and take a step of size `rate` along their clipped
    mean gradient every `chunk` tokens. The paper has window >= chunk, so that attention still sees a chunk from which
    nothing is learned yet; any window works. `norm_eps` holds for all norms, also those of queries and keys. Further
    options: `truncate`, `first_order`, `tied`.
    Raises CourseError for an option that does not exist and for a value that makes no sense.
    """
    check_int("layers", layers, 1)
    if suffix is None:
        suffix = max(1, round(layers / 4))
    check_int("suffix", suffix, 0)
    if suffix > layers:
        raise CourseError(f"suffix is {suffix} blocks, and the model has {layers} layers.")
    static = LevelConfig(hidden, activation="swiglu")
    fast = LevelConfig(fast_hidden or hidden, chunk, rate, learn_rate=False, activation="swiglu")
    blocks = ((static,),) * (layers - suffix) + ((fast, static),) * suffix
    attention = {"window": check_int("window", window, 1), "rope_theta": rope_theta, "qk_norm": True}
    if norm_eps != 1e-6:  # a config without it is the same as in runs of earlier versions
        attention["norm_eps"] = norm_eps
    try:
        return NestedConfig(
            vocab=vocab,
            width=width,
            layers=layers,
            heads=heads,
            levels=blocks,
            options=attention,
            reduction="mean",
            clip=clip,
            post_norm=True,
            norm_eps=norm_eps,
            **options,
        )
    except TypeError as error:
        raise CourseError(f"e2e_config: {error}.") from error


def without_inner_loop(config: NestedConfig) -> NestedConfig:
    """The same network with every level at rest: the fast MLPs are there and stay at their start."""
    blocks = []
    for levels in config.levels:
        blocks.append(tuple(replace(level, chunk=0) for level in levels))
    return replace(config, levels=tuple(blocks))


def with_inner_loop(
    config: NestedConfig, chunk: int, rate: float = 1.0, clip: float | None = 1.0, first_order: bool = False
) -> NestedConfig:
    """The same network with its fast MLPs, the first of two levels, taking a step every `chunk` tokens.

    On weights that were trained with the fast MLPs at rest this is dynamic evaluation (Krause et al. 2018, arXiv
    1709.07432): ordinary training goes on while reading, from a start that was never made for it.
    Raises CourseError if no block has two levels.
    """
    check_int("chunk", chunk, 1)
    if not any(len(levels) > 1 for levels in config.levels):
        raise CourseError("no block of this model has a fast MLP: it needs two levels, of which the first moves.")
    blocks = []
    for levels in config.levels:
        if len(levels) > 1:
            levels = (replace(levels[0], chunk=chunk, rate=rate), *levels[1:])
        blocks.append(levels)
    return replace(config, levels=tuple(blocks), clip=clip, first_order=first_order)


def reconfigured(model: NestedLanguageModel, config: NestedConfig) -> NestedLanguageModel:
    """A model that reads with `model`'s own weights, not copies, by another config of the same sizes.

    It is in evaluation mode. With it an inner loop is switched on or off, or given another step size or clip.
    Raises CourseError if the weights do not fit the config.
    """
    with seeded(0):  # what is drawn here is overwritten
        other = NestedLanguageModel(config)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval()


# -- named sizes -------------------------------------------------------------------------------------------------------
class E2EPreset(NamedTuple):
    """A TTT-E2E model's config and how many parameters it has; and the plain transformer to compare it with: the same
    window attention and norms, no fast MLPs, and MLPs of their full width."""

    config: NestedConfig
    parameters: int
    plain: NestedConfig
    plain_parameters: int


def _preset(parameters: int, plain_parameters: int, full_hidden: int, **sizes: int) -> E2EPreset:
    plain = e2e_config(**sizes | {"suffix": 0, "hidden": full_hidden})
    return E2EPreset(e2e_config(**sizes), parameters, plain, plain_parameters)


# The paper's window, chunk, widths and depths; the vocabulary of the course's other large presets, where the authors'
# has 128,256 words.
_PAPER = dict(vocab=32_000, window=8192, chunk=1024)
E2E_PRESETS: dict[str, E2EPreset] = {
    "ttt-e2e-tiny": _preset(835_200, 838_016, 352, width=128, layers=4, heads=4, hidden=280, window=256, chunk=64),
    "ttt-e2e-125m": _preset(110_439_168, 109_549_824, 2048, width=768, layers=12, heads=12, hidden=1664, **_PAPER),
    "ttt-e2e-350m": _preset(345_882_624, 341_151_744, 2816, width=1024, layers=24, heads=16, hidden=2304, **_PAPER),
    "ttt-e2e-760m": _preset(735_879_168, 728_782_848, 4096, width=1536, layers=24, heads=16, hidden=3328, **_PAPER),
    "ttt-e2e-1b": _preset(1_270_576_128, 1_261_114_368, 5376, width=2048, layers=24, heads=32, hidden=4352, **_PAPER),
    "ttt-e2e-3b": _preset(2_651_307_520, 2_619_809_280, 6912, width=2560, layers=32, heads=32, hidden=5632, **_PAPER),
}
