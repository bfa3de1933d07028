"""Weights of the TTT authors' PyTorch code, under that code's names, for our layer.

That code keeps its rotary features in halves and reorders q and k before and after the turn, which comes to turning
neighbouring pairs, as we do: no weight needs to be permuted. Its inner LayerNorm and its output norm have the same
epsilon, 1e-6. It names the parts of a layer

    W1 b1 [W2 b2]                                              the learned start of the inner model, (h, in, out)
    ttt_norm_weight ttt_norm_bias                              the inner LayerNorm, (h, f)
    learnable_ttt_lr_weight learnable_ttt_lr_bias              theta (h, d, 1) and beta (h, 1)
    learnable_token_idx                                        delta, one for each place in the mini-batch
    q_proj [k_proj] v_proj o_proj [g_proj] [conv_q conv_k]     no k_proj: q and k share a projection, and have the convs
    post_norm
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

from nl_course.errors import CourseError, check_int
from nl_course.memories.ttt.layer import TTTConfig

_PARTS = {  # theirs -> ours, where only the name differs
    "v_proj.weight": "value.weight",
    "o_proj.weight": "output.weight",
    "post_norm.weight": "post_norm.weight",
    "post_norm.bias": "post_norm.bias",
    "learnable_token_idx": "place",
}


def read_layer(
    weights: Mapping[str, Tensor], num_heads: int, mini_batch_size: int = 16, base_lr: float | None = None
) -> tuple[TTTConfig, dict[str, Tensor]]:
    """The config that these weights belong to, and the weights under our names."""
    mlp, shared, gate = "W2" in weights, "k_proj.weight" not in weights, "g_proj.weight" in weights
    same_names(weights, _expected(mlp, shared, gate), "a TTT layer")
    heads, width = check_int("num_heads", num_heads, 1), weights["o_proj.weight"].shape[0]
    places = weights["learnable_token_idx"].shape[0]
    if mini_batch_size != places:
        raise CourseError(f"mini_batch_size is {mini_batch_size}, but learnable_token_idx has {places} places.")
    config = TTTConfig(
        width=width,
        heads=heads,
        kind="mlp" if mlp else "linear",
        backbone="mamba" if shared else "transformer",
        share_qk=shared,
        gate=gate,
        mini_batch=places,
        base_rate=1.0 if base_lr is None else float(base_lr),
        conv=weights["conv_q.weight"].shape[-1] if shared else 4,
    )
    same_shapes(weights, _shapes(config))
    ours = {ours: weights[theirs] for theirs, ours in _PARTS.items()}
    ours |= {f"start.{name}": weights[name] for name in weights if name[0] in "Wb" and name[1:].isdigit()}
    ours |= {"gain": weights["ttt_norm_weight"][:, None], "shift": weights["ttt_norm_bias"][:, None]}
    ours |= {f"rate.{name}": weights[f"learnable_ttt_lr_{name}"][..., 0] for name in ("weight", "bias")}
    if shared:
        ours["query_key.weight"] = weights["q_proj.weight"]
        for theirs, name in (("conv_q", "conv_query"), ("conv_k", "conv_key")):
            ours |= {f"{name}.weight": weights[f"{theirs}.weight"][:, 0], f"{name}.bias": weights[f"{theirs}.bias"]}
    else:
        ours |= {"query.weight": weights["q_proj.weight"], "key.weight": weights["k_proj.weight"]}
    if gate:
        ours["gate.weight"] = weights["g_proj.weight"]
    return config, ours


def _expected(mlp: bool, shared: bool, gate: bool) -> list[str]:
    names = ["W1", "b1", "ttt_norm_weight", "ttt_norm_bias", "learnable_ttt_lr_weight", "learnable_ttt_lr_bias"]
    names += [*_PARTS, "q_proj.weight"] + ["W2", "b2"] * mlp + ["g_proj.weight"] * gate
    convs = ["conv_q.weight", "conv_q.bias", "conv_k.weight", "conv_k.bias"]
    return names + (convs if shared else ["k_proj.weight"])


def _shapes(config: TTTConfig) -> dict[str, tuple[int, ...]]:
    d, h, f = config.width, config.heads, config.head_dim
    shapes = {name: (h, *shape) for name, shape in config.inner.shapes(f).items()}
    shapes |= {"ttt_norm_weight": (h, f), "ttt_norm_bias": (h, f), "post_norm.weight": (d,), "post_norm.bias": (d,)}
    shapes |= {"learnable_ttt_lr_weight": (h, d, 1), "learnable_ttt_lr_bias": (h, 1)}
    shapes |= {f"{name}_proj.weight": (d, d) for name in "qkvog"}
    shapes |= {f"conv_{name}.weight": (d, 1, config.conv) for name in "qk"}
    return shapes | {f"conv_{name}.bias": (d,) for name in "qk"}


def same_names(weights: Iterable[str], expected: Iterable[str], what: str) -> None:
    """Raises CourseError unless `weights` has just the names of `expected`, naming those that lack or are too many."""
    weights, expected = set(weights), set(expected)
    if missing := sorted(expected - weights):
        raise CourseError(f"the weights of {what} lack {', '.join(missing)}.")
    if extra := sorted(weights - expected):
        raise CourseError(f"the weights of {what} have names that it does not know: {', '.join(extra)}.")


def same_shapes(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises CourseError for the first tensor that has not the shape given under its name."""
    for name, tensor in weights.items():
        if name in shapes and tuple(tensor.shape) != tuple(shapes[name]):
            raise CourseError(f"{name} must have the shape {tuple(shapes[name])}, not {tuple(tensor.shape)}.")
