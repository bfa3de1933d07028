"""Named sizes of models with clocks.

`hope-attention-*` is attention and a continuum memory system; `hope-*` has self-modifying Titans instead of attention
(arXiv 2512.24695, section 8), whose main memory is read as it runs: at boundaries only, a chunk of text would not see
itself. Widths and depths are those of the transformers of `nl_course.presets`, and a block's levels have together as
many weights as the MLP there. The paper does not say how many levels or which periods its models had: costs are quoted
for four levels, and 512 and 2,048 named as lowest frequencies. So the large ones here have four, the slowest of period
2,048; micro and tiny have 16, 64 and 256. `ttt-e2e-*` are e2e.py's.
"""

from nl_course.errors import check_choice
from nl_course.memories import MEMORIES
from nl_course.nested.config import LevelConfig, Levels, NestedConfig
from nl_course.nested.e2e import E2E_PRESETS, E2EPreset
from nl_course.presets import PRESETS as TRANSFORMERS
from nl_course.presets import Preset

SELF_MODIFYING = "self-modifying"
TOY, LARGE = (16, 64, 256), (32, 128, 512, 2048)


def levels(chunks: tuple[int, ...], hidden: int, rate: float = 0.01) -> Levels:
    """GELU levels, fastest first, which share what a SwiGLU of that hidden width weighs: 3 d h = k 2 d f."""
    return tuple(LevelConfig(3 * hidden // (2 * len(chunks)), chunk, rate) for chunk in chunks)


def _preset(like: str, chunks: tuple[int, ...], memory: str) -> NestedConfig:
    c = TRANSFORMERS[like].config
    options = {"read": "running"} if memory == SELF_MODIFYING else {}  # else a chunk is blind but for the convolution
    return NestedConfig(c.vocab, c.width, c.layers, c.heads, levels(chunks, c.hidden), memory, options)


_LIKE = {"micro": "micro", "tiny": "tiny", "125m": "125m", "340m": "350m", "760m": "760m", "1.3b": "1.3b"}
_COUNTS = {
    "hope-attention": (468_588, 837_772, 109_557_552, 335_275_104, 728_815_200, 1_280_034_912),
    "hope": (508_556, 907_436, 107_272_272, 322_889_568, 700_799_328, 1_204_932_192),
}


def _presets() -> dict[str, Preset]:
    named = {}
    for family, memory in (("hope-attention", "attention"), ("hope", SELF_MODIFYING)):
        if memory in MEMORIES:
            for (size, like), count in zip(_LIKE.items(), _COUNTS[family], strict=True):
                chunks = TOY if size in ("micro", "tiny") else LARGE
                named[f"{family}-{size}"] = Preset(_preset(like, chunks, memory), count)
    return named


PRESETS: dict[str, Preset | E2EPreset] = _presets() | E2E_PRESETS


def preset(name: str) -> NestedConfig:
    """The config of a named size; raises CourseError with the names there are."""
    return PRESETS[check_choice("preset", name, PRESETS)].config
