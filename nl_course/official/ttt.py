"""Weights of the TTT authors' PyTorch code, under that code's names, for our layer.

That code keeps its rotary features in halves and reorders q and k before and after it rotates them. That comes to
rotating neighboring pairs, as we do, so no weight needs to be permuted. Its inner LayerNorm and its output norm have
the same epsilon as ours, 1e-6. It names the parts of a layer

    W1 b1 [W2 b2]                                              the learned start of the inner model, (h, in, out)
    ttt_norm_weight ttt_norm_bias                              the inner LayerNorm, (h, f)
    learnable_ttt_lr_weight learnable_ttt_lr_bias              theta (h, 1, d) and beta (h, 1)
    learnable_token_idx                                        delta, one number per position in the mini-batch
    q_proj [k_proj] v_proj o_proj [g_proj] [conv_q conv_k]     no k_proj: q and k share a projection, and have the convs
    post_norm
"""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nl_course.memories.ttt.layer import TTT, TTTConfig
from nl_course.official.checks import check_names, check_shapes
from nl_course.official.ttt_options import TTTOptions, read_options
from nl_course.seeding import seeded

# Their names -> ours, for the tensors that are the same in both.
_SAME = {
    "v_proj.weight": "value.weight",
    "o_proj.weight": "output.weight",
    "post_norm.weight": "post_norm.weight",
    "post_norm.bias": "post_norm.bias",
    "learnable_token_idx": "position_offset",
}


def load_ttt(
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, Any] | str | os.PathLike | None = None,
    *,
    num_heads: int | None = None,
    mini_batch_size: int | None = None,
    base_lr: float | None = None,
    rope_theta: float | None = None,
) -> TTT:
    """Our layer with the weights of one layer of the authors' code, in their dtype.

    `config` is that model's config.json, as a dict or as a path; arguments are for weights that come without one. The
    number of heads must be given in one of the two. Of what neither gives, `base_lr` is 1 for both kinds (the paper has
    0.1 for the MLP) and `rope_theta` 10,000, and a warning says so. The mini-batch's size stands in the weights; where
    it is given, it must be the same. Raises CourseError for names or shapes that do not fit, and as `read_options`.
    """
    arguments = dict(num_heads=num_heads, mini_batch_size=mini_batch_size, base_lr=base_lr, rope_theta=rope_theta)
    options = read_options(config, arguments, needed=("base_lr", "rope_theta"))
    layer_config, weights = read_ttt(state_dict, options)
    with seeded(0):  # what is drawn here is overwritten
        memory = TTT(layer_config).to(weights["output.weight"].dtype)
    memory.load_state_dict(weights)
    return memory


def read_ttt(state_dict: Mapping[str, Tensor], options: TTTOptions) -> tuple[TTTConfig, dict[str, Tensor]]:
    """The config of the layer that these weights belong to, and the weights under our names. Errors are those of
    `load_ttt`."""
    config = _config(state_dict, options)
    check_shapes(state_dict, _shapes(config))
    weights = {ours: state_dict[theirs] for theirs, ours in _SAME.items()}
    for name in config.inner.shapes(config.head_dim):
        weights[f"start.{name}"] = state_dict[name]
    # One row per head, which broadcasts over tokens.
    weights["gain"] = state_dict["ttt_norm_weight"][:, None]  # (h, 1, f)
    weights["shift"] = state_dict["ttt_norm_bias"][:, None]  # (h, 1, f)
    # Theirs is a matrix with one output per head; ours is one linear map to all heads.
    weights["rate.weight"] = state_dict["learnable_ttt_lr_weight"][:, 0]  # (h, d)
    weights["rate.bias"] = state_dict["learnable_ttt_lr_bias"][..., 0]  # (h,)
    if config.share_qk:
        weights["query_key.weight"] = state_dict["q_proj.weight"]
        for theirs, ours in (("conv_q", "conv_query"), ("conv_k", "conv_key")):
            weights[f"{ours}.weight"] = state_dict[f"{theirs}.weight"][:, 0]  # (d, taps)
            weights[f"{ours}.bias"] = state_dict[f"{theirs}.bias"]
    else:
        weights["query.weight"] = state_dict["q_proj.weight"]
        weights["key.weight"] = state_dict["k_proj.weight"]
    if config.gate:
        weights["gate.weight"] = state_dict["g_proj.weight"]
    return config, weights


def _config(state_dict: Mapping[str, Tensor], options: TTTOptions) -> TTTConfig:
    """What the options, and the names and sizes of the tensors, say about the layer."""
    is_mlp = "W2" in state_dict
    shares_qk = "k_proj.weight" not in state_dict
    has_gate = "g_proj.weight" in state_dict
    check_names(state_dict, _names(is_mlp, shares_qk, has_gate), "a TTT layer")
    kind = "mlp" if is_mlp else "linear"
    positions = state_dict["learnable_token_idx"].shape[0]
    width = state_dict["o_proj.weight"].shape[0]
    options.check_size("ttt_layer_type", kind, "W2")
    options.check_size("share_qk", shares_qk, "k_proj.weight")
    options.check_size("use_gate", has_gate, "g_proj.weight")
    options.check_size("mini_batch_size", positions, "learnable_token_idx")
    options.check_size("hidden_size", width, "o_proj.weight")
    taps = 4
    if shares_qk:
        taps = state_dict["conv_q.weight"].shape[-1]
        options.check_size("conv_kernel", taps, "conv_q.weight")
    return TTTConfig(
        width=width,
        heads=options.num_heads,
        kind=kind,
        backbone="mamba" if shares_qk else "transformer",
        share_qk=shares_qk,
        gate=has_gate,
        mini_batch=positions,
        base_rate=float(options.base_lr),
        rope_theta=options.rope_theta,
        conv=taps,
    )


def _names(is_mlp: bool, shares_qk: bool, has_gate: bool) -> list[str]:
    """The tensors of such a layer, by their names."""
    names = ["W1", "b1", "ttt_norm_weight", "ttt_norm_bias", "learnable_ttt_lr_weight", "learnable_ttt_lr_bias"]
    names += [*_SAME, "q_proj.weight"]
    if is_mlp:
        names += ["W2", "b2"]
    if has_gate:
        names += ["g_proj.weight"]
    if shares_qk:
        names += ["conv_q.weight", "conv_q.bias", "conv_k.weight", "conv_k.bias"]
    else:
        names += ["k_proj.weight"]
    return names


def _shapes(config: TTTConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each of their tensors in a layer of that config."""
    d, h, f = config.width, config.heads, config.head_dim
    shapes = {name: (h, *shape) for name, shape in config.inner.shapes(f).items()}
    shapes |= {"ttt_norm_weight": (h, f), "ttt_norm_bias": (h, f), "post_norm.weight": (d,), "post_norm.bias": (d,)}
    shapes |= {"learnable_ttt_lr_weight": (h, 1, d), "learnable_ttt_lr_bias": (h, 1)}
    shapes |= {f"{name}_proj.weight": (d, d) for name in "qkvog"}
    shapes |= {f"conv_{name}.weight": (d, 1, config.conv) for name in "qk"}
    shapes |= {f"conv_{name}.bias": (d,) for name in "qk"}
    return shapes
