"""The options of TTT-E2E's authors' JAX code, from a run's resolved configuration or from arguments.

That configuration has sections `model` and `training`. Each option of `model` belongs to one of four kinds, and no
other option is accepted; of `training` only what the model itself does is looked at.

* NUMBERS cannot be seen in the arrays and change what the model computes. They are read and honored.
* ONLY are honored in one value, that of the released models; others are refused.
* SIZES can be seen in the arrays. Both must agree.
* WITHOUT_EFFECT leave the outputs as they are.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from nl_course.errors import CourseError, check_int, check_min
from nl_course.official.checks import one_value, warn_of_assumed

# Their name in `model` -> the name of our argument.
NUMBERS = {
    "num_attention_heads": "num_heads",
    "sliding_window_size": "window",
    "mini_batch_size": "chunk",
    "rope_theta": "rope_theta",
    "rms_norm_eps": "rms_norm_eps",
}
ONLY: dict[str, Any] = {
    "seq_modeling_block": "SWA",
    "prime": True,  # fast MLPs of their own
    "feed_forward_prime": "swiglu",
    "qk_norm": True,
    "pre_norm": True,
    "post_norm": True,
    "tie_word_embeddings": True,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "suffix_len")
WITHOUT_EFFECT = (
    "name",
    "seq_len",  # how many angles are kept at hand
    "initializer_range",  # for new weights
    "bos_token_id",  # for the loss's mask alone: see `load_e2e`
    "eos_token_id",
    "output_size",  # of a head that a tied model does not have
    "compute_dtype",  # rounding; here the arrays have a dtype
    "param_dtype",
    "state_dtype",
    "remat_block",
    "remat_block_bwd",
    "remat_prefix_block",
    "remat_attention",
    "remat_attention_bwd",
    "remat_mlp",
    "remat_mlp_bwd",
    "remat_rms",
    "remat_rms_bwd",
    "remat_multiple_gd",
    "unroll_block_scan",
    "unroll_inner_scan",
    "force_flash",
)
FAST_MLPS = ["language_model.**.suffix_blocks.feed_forward_prime.**"]  # what the inner loop trains
# Of what the released models were trained with. Heads, window and chunk are of each model.
RELEASED = {"inner_lr": 1.0, "inner_clip": 1.0, "rope_theta": 500_000.0, "rms_norm_eps": 1e-6}


class E2EOptions(NamedTuple):
    """What the arrays cannot say, by the names of our arguments; and of the config, what the arrays say too."""

    num_heads: int
    window: int
    chunk: int
    inner_lr: float
    inner_clip: float | None
    rope_theta: float
    rms_norm_eps: float
    sizes: Mapping[str, int]


def read_options(config: Mapping[str, Any] | None, arguments: Mapping[str, Any]) -> E2EOptions:
    """The options from `config`, nested dicts, and from `arguments` by our names (None: not given; an `inner_clip` of 0
    is no clipping, as in that code).

    Raises CourseError for options that lack, are not known or not supported, and for an argument that contradicts the
    config. Warns of what is assumed.
    """
    stated = {}
    sizes = {}
    if config is not None:
        model, training = _section(config, "model"), _section(config, "training")
        stated = _check_model(model) | _check_training(training)
        sizes = {name: model[name] for name in SIZES if name in model}
    values = {}
    assumed = {}
    for ours in ("num_heads", "window", "chunk", *RELEASED):
        values[ours] = one_value(ours, arguments.get(ours), ours, stated.get(ours))
        if values[ours] is None and ours in RELEASED:
            values[ours] = assumed[ours] = RELEASED[ours]
        if values[ours] is None:
            raise CourseError(f"{ours} is not given, and the arrays do not say it: pass {ours}= or config=.")
    warn_of_assumed(assumed)
    for ours in ("num_heads", "window", "chunk"):
        check_int(ours, values[ours], 1)
    for ours in RELEASED:
        check_min(ours, values[ours], 0)
    values["inner_clip"] = values["inner_clip"] or None
    return E2EOptions(**values, sizes=sizes)


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name) if isinstance(config, Mapping) else None
    if not isinstance(section, Mapping):
        raise CourseError(f"the config must have a section {name!r}: give the run's resolved configuration as dicts.")
    return section


def _check_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of the section `model`, by our names; all else in it is checked."""
    for name in model:
        if name not in NUMBERS and name not in ONLY and name not in SIZES and name not in WITHOUT_EFFECT:
            raise CourseError(f"the config's option model.{name} is not one of the TTT-E2E authors' code.")
    for name in (*NUMBERS, *ONLY):
        if name not in model:
            raise CourseError(f"the config lacks model.{name}: give the run's resolved configuration.")
    for name, only in ONLY.items():
        _check_only(f"model.{name}", model[name], only)
    return {ours: model[name] for name, ours in NUMBERS.items()}


def _check_training(training: Mapping[str, Any]) -> dict[str, Any]:
    """The inner optimizer's numbers, by our names, once it is certain that it is the one we have."""
    for name in ("train_mode", "spec_inner", "optimizer_inner"):
        if name not in training:
            raise CourseError(f"the config lacks training.{name}: give the run's resolved configuration.")
    _check_only("training.train_mode", training["train_mode"], "meta")
    _check_only("training.spec_inner", list(training["spec_inner"]), FAST_MLPS)
    optimizer = _section(training, "optimizer_inner")
    for name in ("optimizer_type", "lr", "clip_gradient"):
        if name not in optimizer:
            raise CourseError(f"the config lacks training.optimizer_inner.{name}: give the resolved configuration.")
    _check_only("training.optimizer_inner.optimizer_type", optimizer["optimizer_type"], "sgd")
    return {"inner_lr": optimizer["lr"], "inner_clip": optimizer["clip_gradient"]}


def _check_only(name: str, value: Any, only: Any) -> None:
    if value != only:
        raise CourseError(f"{name} must be {only!r}, not {value!r}: nothing else is supported here.")
