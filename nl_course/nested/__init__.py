"""The clocks: language models with levels that learn while they read, each at its own pace.

To read in this order: clocks.py (when a level updates), levels.py (the forward pass), steps.py (the equation of the
update), inner_loop.py (from boundary to boundary), model.py (the whole). Then: config.py and presets.py (sizes), e2e.py
(TTT-E2E as a config), stacking.py (clocks for a trained transformer), state.py, outer.py and recompute.py (training),
probe.py (what was learned).
"""

from nl_course.nested.clocks import updates_after
from nl_course.nested.config import LevelConfig, NestedConfig
from nl_course.nested.e2e import E2E_PRESETS, E2EPreset, e2e_config, reconfigured, with_inner_loop, without_inner_loop
from nl_course.nested.in_place import InPlace, InPlaceState
from nl_course.nested.levels import Level, NestedBlock
from nl_course.nested.model import NestedLanguageModel
from nl_course.nested.presets import PRESETS, preset
from nl_course.nested.stacking import from_pretrained_blocks
from nl_course.nested.state import NestedState, OpenState

__all__ = [
    "E2E_PRESETS",
    "PRESETS",
    "E2EPreset",
    "InPlace",
    "InPlaceState",
    "Level",
    "LevelConfig",
    "NestedBlock",
    "NestedConfig",
    "NestedLanguageModel",
    "NestedState",
    "OpenState",
    "e2e_config",
    "from_pretrained_blocks",
    "preset",
    "reconfigured",
    "updates_after",
    "with_inner_loop",
    "without_inner_loop",
]
