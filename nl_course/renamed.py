"""Names that older files hold, and the names of today.

States, checkpoints, run.json and recordings store the names of classes, fields, options and parameters. A file outlives
the code that wrote it, so each such name that changes gets one line here, and whatever reads a file asks

    translate("TTTState", {"gathered": ...})  ->  ("TTTState", {"grad_accum": ...})

A setting that did not exist then and whose default of today means something else gets a line in `BEFORE`. Files of
today always have such settings (for a memory's options see `memories.saved_options`), so that a file without them is
one of before.

A field that no longer exists gets `Gone`: it is dropped where it says nothing (empty, or a value that is now the only
one), and refused in one line where it would change what is computed. Files that have the names of today pass unchanged.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nl_course.errors import CourseError


@dataclass(frozen=True)
class Gone:
    """A name without a successor. `why` completes the refusal of a value other than None, empty or one of `usual`."""

    why: str
    usual: tuple[Any, ...] = ()

    def allows(self, value: Any) -> bool:
        """Whether the field may be dropped: nothing was in it, or what is now always so."""
        if isinstance(value, Tensor):
            return False
        if value is None or value in self.usual:
            return True
        return isinstance(value, (Mapping, tuple, list)) and len(value) == 0


DROPPED_IF_EMPTY = Gone("it holds a chunk that was written in several inner steps, which this version cannot continue")

# Classes: the name in old files -> the name of today.
CLASSES: dict[str, str] = {}

# Fields, options and parameters, under the class's name of today: the name in old files -> the name of today.
# A parameter's name may be given up to any dot: "gates" also stands for "gates.weight".
RENAMED: dict[str, dict[str, str | Gone]] = {
    # -- attention and linear memories: states, configs, parameters
    "MatrixState": {"tail": "conv_state"},
    "LinearAttentionConfig": {"feature": Gone("queries and keys are used as they are", usual=("none",))},
    #
    # -- TTT
    "TTT": {"place": "position_offset"},
    "TTTState": {"gathered": "grad_accum", "tails": "conv_states", "open": DROPPED_IF_EMPTY},
    "TTTConfig": {"checkpoint": "recompute"},
    "TTTLinearConfig": {"checkpoint": "recompute"},
    "TTTMLPConfig": {"checkpoint": "recompute"},
    #
    # -- Titans, MAC, MAG, MAL
    "TitansConfig": {"gates": Gone("pooled gates are a class of their own, PooledTitans", usual=("per-token",))},
    "NeuralState": {"open": DROPPED_IF_EMPTY},
    "PooledState": {"gathered": "grad_accum"},
    "TitansState": {"tails": "conv_states"},
    "MACState": {
        "recalled": "segment_memory",
        "query_tail": "query_conv_state",
        "tails": "conv_states",
        "held": "segment_cache",
    },
    "MAGState": {"tails": "conv_states"},
    "MALState": {"tails": "conv_states"},
    #
    # -- HOPE
    "SelfModifyingConfig": {"rung": "variant"},
    "SelfModifyingState": {"tail": "conv_state"},
    "FastState": {"open": DROPPED_IF_EMPTY},
    #
    # -- ablations, by the options that recordings name
    "Ablation": {"per_token_rate": "learning_rate_per_token"},
    #
    # -- models, blocks and models with clocks
    "BlockState": {"tail": "conv_state"},
    "OpenState": {"then": "at_start"},
    "NestedState": {"gathered": "grad_accum"},
    #
    # -- optimizers: options, and what they keep for each parameter
    #
    # -- training: TrainingConfig and Plan
    #
}

# Settings that files of before do not have, and what holds for those files. Today's defaults differ.
BEFORE: dict[str, dict[str, Any]] = {
    "Plan": {"earlier": True},
    "MACConfig": {"attention_residual": False, "gate": "vectors"},
    "MAGConfig": {"attention_residual": False, "gate": "vectors"},
    "MALConfig": {"attention_residual": False},
}

# Names inside one field, a dictionary, under the class's and the field's name of today.
INSIDE: dict[str, dict[str, str]] = {
    f"FastState.{field}": {"wide": "vector", "narrow": "scalar"} for field in ("anchor", "running", "momentum")
}

# A model's and a run's settings contain those of a memory and of an optimizer, which is only named there.
MEMORY_CONFIGS = {
    "attention": "AttentionConfig",
    "latent-attention": "LatentAttentionConfig",
    "linear": "LinearAttentionConfig",
    "retnet": "RetentionConfig",
    "delta": "DeltaConfig",
    "gated-delta": "GatedDeltaConfig",
    "kda": "KDAConfig",
    "ttt-linear": "TTTLinearConfig",
    "ttt-mlp": "TTTMLPConfig",
    "titans": "TitansConfig",
    "self-modifying": "SelfModifyingConfig",
    "mac": "MACConfig",
    "mag": "MAGConfig",
    "mal": "MALConfig",
    "cached": "CachedConfig",
}
OPTIMIZER_CLASSES = {
    "sgd": "SGD",
    "momentum": "Momentum",
    "adam": "Adam",
    "adamw": "AdamW",
    "muon": "Muon",
    "delta-momentum": "DeltaMomentum",
    "deep-momentum": "DeepMomentum",
    "dgd": "DeltaGradientDescent",
    "m3": "M3",
}


def translate(owner: str, values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The class `owner` and its `values` (fields, options or parameters by name) under the names of today.

    Settings inside settings are translated too: the `options` and `levels` of a model's config; `optimizer_options`,
    `plan` and `model` of what a run was asked for ("TrainingConfig"). Raises CourseError for a value that cannot be
    expressed any more.
    """
    owner = CLASSES.get(owner, owner)
    rows = RENAMED.get(owner, {})
    translated: dict[str, Any] = {}
    for name, value in values.items():
        known, rest = _row_of(rows, name)
        if known is None:
            translated[name] = value
        elif isinstance(rows[known], str):
            translated[rows[known] + rest] = value
        elif not rows[known].allows(value):
            raise CourseError(f"{owner} no longer has {known!r}, which this file sets: {rows[known].why}.")
    for name, value in BEFORE.get(owner, {}).items():
        translated.setdefault(name, value)
    _translate_inside(owner, translated)
    return owner, translated


def _row_of(rows: Mapping[str, str | Gone], name: str) -> tuple[str | None, str]:
    """The longest known beginning of a dotted name, up to a dot or the end, and what follows it."""
    beginning = name
    while beginning and beginning not in rows:
        beginning = beginning.rpartition(".")[0]
    return (beginning, name.removeprefix(beginning)) if beginning else (None, name)


def _translate_inside(owner: str, values: dict[str, Any]) -> None:
    """Replaces the settings inside `values` by translated ones."""
    for name, value in values.items():
        rows = INSIDE.get(f"{owner}.{name}")
        if rows is not None and isinstance(value, Mapping):
            values[name] = type(value)((rows.get(old, old), inside) for old, inside in value.items())
    if owner in ("ModelConfig", "NestedConfig"):
        _replace(values, "options", MEMORY_CONFIGS.get(str(values.get("memory"))))
        if values.get("levels"):
            values["levels"] = [_translate_levels(block) for block in values["levels"]]
    if owner == "TrainingConfig":
        _replace(values, "optimizer_options", OPTIMIZER_CLASSES.get(str(values.get("optimizer"))))
        _replace(values, "plan", "Plan")
        if isinstance(values.get("model"), Mapping):
            values["model"] = translate_model(None, values["model"])[1]


def _replace(values: dict[str, Any], name: str, owner: str | None) -> None:
    if owner is not None and isinstance(values.get(name), Mapping):
        values[name] = translate(owner, values[name])[1]


def _translate_levels(block: Any) -> Any:
    """One level, or the levels of one block. A config that is already built has no old names."""
    if isinstance(block, Mapping):
        return translate("LevelConfig", block)[1]
    if isinstance(block, (list, tuple)):
        return [_translate_levels(level) for level in block]
    return block


def translate_model(name: str | None, config: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The name of a model's class (None where a file lacks it) and its saved config, under the names of today.
    A model that is not one of the course's keeps its config as it is."""
    name = CLASSES.get(name, name) if name is not None else None
    if name not in (None, "LanguageModel", "NestedLanguageModel"):
        return name, dict(config)
    owner = "NestedConfig" if "levels" in config else "ModelConfig"
    return name, translate(owner, config)[1]


def parameter_names(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Each of `names`, parameters of a saved model like `model` -> its name of today; those that are gone are left out.
    Every module translates what follows its own path, outer ones first, since a path may have changed itself.

    Sharded checkpoints are not translated: torch finds their tensors by name, and a parameter with an old name there is
    refused in one line."""
    today = {name: name for name in names}
    for path, module in model.named_modules():
        owner = type(module).__name__
        if owner not in RENAMED:
            continue
        prefix = f"{path}." if path else ""
        for old, name in list(today.items()):
            if not name.startswith(prefix):
                continue
            inside = list(translate(owner, {name.removeprefix(prefix): None})[1])
            if inside:
                today[old] = prefix + inside[0]
            else:
                del today[old]
    return today
