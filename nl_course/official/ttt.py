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

from collections.abc import Mapping

from torch import Tensor

from nl_course.errors import CourseError, check_int
from nl_course.memories.ttt.layer import TTT, TTTConfig
from nl_course.official.checks import check_names, check_shapes

# Their names -> ours, for the tensors that are the same in both.
_SAME = {
    "v_proj.weight": "value.weight",
    "o_proj.weight": "output.weight",
    "post_norm.weight": "post_norm.weight",
    "post_norm.bias": "post_norm.bias",
    "learnable_token_idx": "position_offset",
}


def load_ttt(
    state_dict: Mapping[str, Tensor], *, num_heads: int, mini_batch_size: int = 16, base_lr: float | None = None
) -> TTT:
    """Our layer with the weights of one layer of the authors' code, in their dtype.

    `base_lr` None is that code's default, 1 for both kinds (the paper has 0.1 for the MLP). Raises CourseError for
    names or shapes that do not fit.
    """
    config, weights = read_ttt(state_dict, num_heads, mini_batch_size, base_lr)
    memory = TTT(config).to(weights["output.weight"].dtype)
    memory.load_state_dict(weights)
    return memory


def read_ttt(
    state_dict: Mapping[str, Tensor], num_heads: int, mini_batch_size: int = 16, base_lr: float | None = None
) -> tuple[TTTConfig, dict[str, Tensor]]:
    """The config of the layer that these weights belong to, and the weights under our names. Arguments and errors are
    those of `load_ttt`."""
    config = _config(state_dict, num_heads, mini_batch_size, base_lr)
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


def _config(state_dict: Mapping[str, Tensor], num_heads: int, mini_batch_size: int, base_lr: float | None) -> TTTConfig:
    """What the names and sizes of the tensors say about the layer."""
    is_mlp = "W2" in state_dict
    shares_qk = "k_proj.weight" not in state_dict
    has_gate = "g_proj.weight" in state_dict
    check_names(state_dict, _names(is_mlp, shares_qk, has_gate), "a TTT layer")
    heads = check_int("num_heads", num_heads, 1)
    positions = state_dict["learnable_token_idx"].shape[0]
    if mini_batch_size != positions:
        raise CourseError(f"mini_batch_size is {mini_batch_size}, but learnable_token_idx has {positions} positions.")
    return TTTConfig(
        width=state_dict["o_proj.weight"].shape[0],
        heads=heads,
        kind="mlp" if is_mlp else "linear",
        backbone="mamba" if shares_qk else "transformer",
        share_qk=shares_qk,
        gate=has_gate,
        mini_batch=positions,
        base_rate=1.0 if base_lr is None else float(base_lr),
        conv=state_dict["conv_q.weight"].shape[-1] if shares_qk else 4,
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
