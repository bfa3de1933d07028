"""The memories of the course, by name.

base.py says what a memory is, attention/, linear/, ttt/, titans/ and hope/ hold one stage each, cached/ a memory and
copies of what it was, common/ what several stages share, ablations/ the memories with one part changed. A new memory
needs its file, a line in MEMORIES here, and a case in the tests' suite.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from nl_course.errors import CourseError, check_choice, shortened
from nl_course.memories.attention.attention import Attention, AttentionConfig
from nl_course.memories.attention.latent import LatentAttention, LatentAttentionConfig
from nl_course.memories.base import Memory, State
from nl_course.memories.cached.layer import Cached, CachedConfig
from nl_course.memories.hope.layer import SelfModifying, SelfModifyingConfig
from nl_course.memories.linear.delta import DeltaConfig, DeltaNet, GatedDeltaConfig, GatedDeltaNet
from nl_course.memories.linear.kda import KDA, KDAConfig
from nl_course.memories.linear.linear import LinearAttention, LinearAttentionConfig, Retention, RetentionConfig
from nl_course.memories.titans.lmm import Titans, TitansConfig
from nl_course.memories.titans.mac import MAC, MACConfig
from nl_course.memories.titans.mag import MAG, MAGConfig
from nl_course.memories.titans.mal import MAL, MALConfig
from nl_course.memories.trace import Trace
from nl_course.memories.ttt.layer import TTT, TTTConfig, TTTLinearConfig, TTTMLPConfig
from nl_course.renamed import BEFORE

# A memory's class and its config's. Both TTT memories are one class, whose config says which inner model it has.
MEMORIES: dict[str, tuple[type[Memory], type]] = {
    "attention": (Attention, AttentionConfig),
    "latent-attention": (LatentAttention, LatentAttentionConfig),
    "linear": (LinearAttention, LinearAttentionConfig),
    "retnet": (Retention, RetentionConfig),
    "delta": (DeltaNet, DeltaConfig),
    "gated-delta": (GatedDeltaNet, GatedDeltaConfig),
    "kda": (KDA, KDAConfig),
    "ttt-linear": (TTT, TTTLinearConfig),
    "ttt-mlp": (TTT, TTTMLPConfig),
    "titans": (Titans, TitansConfig),
    "self-modifying": (SelfModifying, SelfModifyingConfig),
    "mac": (MAC, MACConfig),
    "mag": (MAG, MAGConfig),
    "mal": (MAL, MALConfig),
    "cached": (Cached, CachedConfig),
}
# A state says by that name whose it is. (A TTT memory names itself by its inner model.)
for _name, (_memory, _) in MEMORIES.items():
    _memory.owner_name = _name


def check_options(options: Mapping[str, Any]) -> None:
    """Raises CourseError unless `options` is a dict of further options of a memory, by name. Which there are is said by
    `build_memory`, which knows the memory."""
    if not isinstance(options, Mapping):
        raise CourseError(f"options must be a dict, such as {{'window': 64}}, not {shortened(options)}.")
    for name in ("width", "heads", "path"):
        if name in options:
            raise CourseError(f"options cannot hold {name!r}: the model has a {name} of its own.")


def saved_options(memory: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A memory's options as files keep them: those that were given, and those that files of before do not have, at
    their defaults of today (see `renamed.BEFORE`)."""
    _, config = MEMORIES[memory]
    defaults = {field.name: field.default for field in fields(config)}
    new = {name: defaults[name] for name in BEFORE.get(config.__name__, {})}
    return {**new, **options}


def _refuse_setting(name: str, option: str) -> property:
    """A class attribute that cannot be set. Copies of notebooks from earlier versions set it, which would now change
    nothing without a word."""
    instead = f"nl_course.memories.ablations.switches.ablated(model, {option}=(...))"

    def refuse(memory: Memory, value: Any) -> None:
        raise CourseError(f"{type(memory).__name__}.{name} = {value!r} has no effect any more: use {instead}.")

    return property(None, refuse)


for _memory in (TTT, Titans, MAC, MAG, MAL, SelfModifying):
    _memory.cut = _refuse_setting("cut", "without")
    _memory.freeze = _refuse_setting("freeze", "frozen")


def build_memory(name: str, width: int, heads: int, path: str = "auto", **options: Any) -> Memory:
    """The memory called `name` at a model's width and heads; `options` are further fields of its config, `path` picks
    its implementation ("auto", "reference", ...). Raises CourseError for a name, an option or a size that it lacks."""
    memory, config = MEMORIES[check_choice("memory", name, MEMORIES)]
    try:
        return memory(config(width=width, heads=heads, **options), path=path)
    except TypeError as error:
        known = ", ".join(config.__dataclass_fields__)
        raise CourseError(f"memory {name!r}: {error}; its options are: {known}.") from error


__all__ = [
    "KDA",
    "MAC",
    "MAG",
    "MAL",
    "MEMORIES",
    "TTT",
    "Attention",
    "AttentionConfig",
    "Cached",
    "CachedConfig",
    "DeltaConfig",
    "DeltaNet",
    "GatedDeltaConfig",
    "GatedDeltaNet",
    "KDAConfig",
    "LatentAttention",
    "LatentAttentionConfig",
    "LinearAttention",
    "LinearAttentionConfig",
    "MACConfig",
    "MAGConfig",
    "MALConfig",
    "Memory",
    "Retention",
    "RetentionConfig",
    "SelfModifying",
    "SelfModifyingConfig",
    "State",
    "TTTConfig",
    "TTTLinearConfig",
    "TTTMLPConfig",
    "Titans",
    "TitansConfig",
    "Trace",
    "build_memory",
    "check_options",
]
