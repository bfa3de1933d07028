"""Named sizes of language models, each with the parameter count that a test holds it to.

`micro` and `tiny` read bytes and train on a laptop. The others read a vocabulary of 32,000; widths and depths are those
of the published comparisons (TTT, arXiv 2407.04620, table 3), MLP widths those of its code.
"""

from typing import NamedTuple

from nl_course.errors import choose
from nl_course.model import ModelConfig


class Preset(NamedTuple):
    """A model's config and how many parameters it has."""

    config: ModelConfig
    parameters: int


def _subwords(width: int, layers: int, heads: int, hidden: int) -> ModelConfig:
    return ModelConfig(vocab=32_000, width=width, layers=layers, heads=heads, hidden=hidden)


PRESETS: dict[str, Preset] = {
    "micro": Preset(ModelConfig(width=96, layers=4, heads=4, hidden=256), 467_808),
    "tiny": Preset(ModelConfig(width=128, layers=4, heads=4, hidden=352), 836_736),
    "125m": Preset(_subwords(768, 12, 12, 2048), 109_529_856),
    "350m": Preset(_subwords(1024, 24, 16, 2736), 335_201_280),
    "760m": Preset(_subwords(1536, 24, 16, 4096), 728_704_512),
    "1.3b": Preset(_subwords(2048, 24, 32, 5504), 1_279_887_360),
}


def preset(name: str) -> ModelConfig:
    """The config of a named size; raises CourseError with the names there are."""
    return PRESETS[choose("preset", name, PRESETS)].config
