"""Named sizes of models with clocks.

`hope-attention-*` is attention and a continuum memory system. `hope-*` has self-modifying Titans instead of attention
(arXiv 2512.24695, section 8). Its main memory is read as it runs: read only as it was at the last boundary, no token
would see its own chunk. Widths and depths are those of the transformers of `nl_course.presets`, and the levels of a
block have together as many weights as the MLP there. `ttt-e2e-*` are those of e2e.py.

The paper does not say how many levels its models had, or with which chunks. It quotes costs for four levels, and names
512 and 2,048 as lowest frequencies. So the large sizes here have four levels, the slowest with a chunk of 2,048; micro
and tiny have 16, 64 and 256.
"""

from nl_course.errors import check_choice
from nl_course.memories import MEMORIES
from nl_course.nested.config import LevelConfig, Levels, NestedConfig
from nl_course.nested.e2e import E2E_PRESETS, E2EPreset
from nl_course.presets import PRESETS as TRANSFORMERS
from nl_course.presets import Preset

SELF_MODIFYING = "self-modifying"
TOY, LARGE = (16, 64, 256), (32, 128, 512, 2048)  # chunks of a block's levels, in tokens


def levels(chunks: tuple[int, ...], hidden: int, rate: float = 0.01) -> Levels:
    """GELU levels, fastest first, that share the weights of a SwiGLU MLP of width `hidden`: 3 d hidden = k 2 d f."""
    level_hidden = 3 * hidden // (2 * len(chunks))
    return tuple(LevelConfig(level_hidden, chunk, rate) for chunk in chunks)


def _config(transformer: str, chunks: tuple[int, ...], memory: str) -> NestedConfig:
    """That transformer's sizes with levels for its MLPs, and `memory` for its attention."""
    sizes = TRANSFORMERS[transformer].config
    # Read at boundaries, a chunk would see nothing of itself but what the convolution brings.
    options = {"read": "running"} if memory == SELF_MODIFYING else {}
    return NestedConfig(
        vocab=sizes.vocab,
        width=sizes.width,
        layers=sizes.layers,
        heads=sizes.heads,
        levels=levels(chunks, sizes.hidden),
        memory=memory,
        options=options,
    )


# Our size -> the transformer that it is made from, which the paper's 340m finds under another name.
_TRANSFORMER_OF = {"micro": "micro", "tiny": "tiny", "125m": "125m", "340m": "350m", "760m": "760m", "1.3b": "1.3b"}
_PARAMETERS = {
    "hope-attention": (468_588, 837_772, 109_557_552, 335_275_104, 728_815_200, 1_280_034_912),
    "hope": (508_556, 907_436, 107_272_272, 322_889_568, 700_799_328, 1_204_932_192),
}


def _presets() -> dict[str, Preset]:
    presets = {}
    for family, memory in (("hope-attention", "attention"), ("hope", SELF_MODIFYING)):
        if memory not in MEMORIES:
            continue
        for (size, transformer), parameters in zip(_TRANSFORMER_OF.items(), _PARAMETERS[family], strict=True):
            chunks = TOY if size in ("micro", "tiny") else LARGE
            presets[f"{family}-{size}"] = Preset(_config(transformer, chunks, memory), parameters)
    return presets


PRESETS: dict[str, Preset | E2EPreset] = _presets() | E2E_PRESETS


def preset(name: str) -> NestedConfig:
    """The config of a named size. Raises CourseError with the names there are."""
    return PRESETS[check_choice("preset", name, PRESETS)].config
