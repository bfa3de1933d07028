"""Named sizes of language models, each with the parameter count that a test holds it to.

`micro` and `tiny` read bytes and train on a laptop. The others read a vocabulary of 32,000; widths and depths are those
of the published comparisons (TTT, arXiv 2407.04620, table 3), MLP widths those of its code. `ttt-linear-*` and
`ttt-mlp-*` are that paper's models: the Mamba backbone and a convolution of width 4 in every block. The micro ones have
about as many parameters as `micro`: what their memories need is taken from the MLPs.

So it is with the other stages at the large sizes: `gated-delta-*`, `kda-*`, `titans-*`, `mac-*`, `mag-*`, `mal-*` and
`self-modifying-*` have the transformer's widths and depths, and MLPs narrowed or widened until they weigh what it does,
within 0.2 %. The papers' own widths of these sizes are not published in full; segments and windows of 512 are our
choice. Models with clocks are in nl_course/nested/presets.py.
"""

from dataclasses import replace
from typing import NamedTuple

from nl_course.errors import check_choice
from nl_course.model import ModelConfig


class Preset(NamedTuple):
    """A model's config and how many parameters it has."""

    config: ModelConfig
    parameters: int


def _subwords(width: int, layers: int, heads: int, hidden: int) -> ModelConfig:
    """A transformer that reads subwords."""
    return ModelConfig(vocab=32_000, width=width, layers=layers, heads=heads, hidden=hidden)


def _ttt(kind: str, like: ModelConfig, hidden: int | None = None) -> ModelConfig:
    """The sizes of another model around TTT-Linear or TTT-MLP, with other MLPs where `hidden` is given."""
    return replace(like, memory=f"ttt-{kind}", conv=4, hidden=hidden or like.hidden)


_MICRO = ModelConfig(width=96, layers=4, heads=4, hidden=256)
_SIZES = {
    "125m": _subwords(768, 12, 12, 2048),
    "350m": _subwords(1024, 24, 16, 2736),
    "760m": _subwords(1536, 24, 16, 4096),
    "1.3b": _subwords(2048, 24, 32, 5504),
}
# Memory: its options, then hidden width of the MLPs and parameters, size by size.
_SAME_WEIGHT = {
    "gated-delta": ({}, (1776, 109_420_320), (2384, 335_498_496), (3568, 728_560_128), (4800, 1_280_480_256)),
    "kda": ({}, (1952, 109_466_256), (2640, 335_129_472), (3952, 728_006_784), (5408, 1_280_528_640)),
    "titans": ({}, (1600, 109_456_560), (2208, 335_693_952), (3312, 729_442_944), (4608, 1_279_299_840)),
    "mac": ({"segment": 512}, (576, 109_474_992), (832, 334_956_672), (1264, 729_516_672), (1888, 1_280_971_008)),
    "mag": ({"window": 512}, (576, 109_465_776), (832, 334_932_096), (1264, 729_479_808), (1888, 1_280_921_856)),
    "mal": ({"window": 512}, (576, 109_465_776), (832, 334_932_096), (1264, 729_479_808), (1888, 1_280_921_856)),
    "self-modifying": (  # read as it runs: at boundaries only, a chunk of text would not see itself
        {"read": "running"},
        (2128, 109_456_416),
        (2896, 334_612_224),
        (4352, 729_000_192),
        (6016, 1_280_282_112),
    ),
}


PRESETS: dict[str, Preset] = {
    "micro": Preset(_MICRO, 467_808),
    "tiny": Preset(ModelConfig(width=128, layers=4, heads=4, hidden=352), 836_736),
    "125m": Preset(_SIZES["125m"], 109_529_856),
    "350m": Preset(_SIZES["350m"], 335_201_280),
    "760m": Preset(_SIZES["760m"], 728_704_512),
    "1.3b": Preset(_SIZES["1.3b"], 1_279_887_360),
    "ttt-linear-micro": Preset(_ttt("linear", _MICRO, 240), 468_272),
    "ttt-mlp-micro": Preset(_ttt("mlp", _MICRO, 184), 469_808),
    "ttt-linear-125m": Preset(_ttt("linear", _SIZES["125m"]), 110_424_144),
    "ttt-linear-350m": Preset(_ttt("linear", _SIZES["350m"]), 337_684_224),
    "ttt-linear-760m": Preset(_ttt("linear", _SIZES["760m"]), 733_608_192),
    "ttt-linear-1.3b": Preset(_ttt("linear", _SIZES["1.3b"]), 1_285_639_296),
    "ttt-mlp-125m": Preset(_ttt("mlp", _SIZES["125m"]), 114_589_776),
    "ttt-mlp-350m": Preset(_ttt("mlp", _SIZES["350m"]), 348_792_576),
    "ttt-mlp-760m": Preset(_ttt("mlp", _SIZES["760m"]), 758_528_256),
    "ttt-mlp-1.3b": Preset(_ttt("mlp", _SIZES["1.3b"]), 1_307_856_000),
}
for _memory, (_options, *_sizes) in _SAME_WEIGHT.items():
    for (_size, _like), (_hidden, _count) in zip(_SIZES.items(), _sizes, strict=True):
        _config = replace(_like, memory=_memory, options=_options, hidden=_hidden)
        PRESETS[f"{_memory}-{_size}"] = Preset(_config, _count)


def preset(name: str) -> ModelConfig:
    """The config of a named size; raises CourseError with the names there are."""
    return PRESETS[check_choice("preset", name, PRESETS)].config
