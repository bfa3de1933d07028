"""Weights of TTT-E2E's authors' JAX code, under that code's names, and ours under them.

A flat dict of arrays, blocks stacked along the first axis (L blocks, S of them with a fast MLP; W applied as x @ W):

    language_model/model/  wte/weight (V, d)   ln_f/weight (d,)
    .../h/blocks/          seq_modeling_block/{wq,wk,wv,wo}/weight (L, d, d)   .../{q_norm,k_norm}/weight (L, d / heads)
                           feed_forward/{w1,w3}/weight (L, d, f)   feed_forward/w2/weight (L, f, d)
                           {seq_norm,seq_post_norm,ffn_norm,ffn_post_norm}/weight (L, d)
    .../h/prime_storage/   feed_forward_prime/{w1,w3}/weight (S, d, f')   .../w2/weight (S, f', d)
                           {ffn_prime_norm,ffn_prime_post_norm}/weight (S, d)

An MLP is w2(silu(w1 x) * w3 x). Rotary pairs are neighbours in both codes, so no weight is permuted.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.nested.e2e import e2e_config
from nl_course.nested.levels import Level
from nl_course.nested.model import NestedLanguageModel
from nl_course.official.checks import check_names, check_shapes, check_size
from nl_course.official.e2e_options import read_options
from nl_course.seeding import seeded

_MODEL = "language_model/model/"
_BLOCKS = _MODEL + "h/blocks/"
_PRIME = _MODEL + "h/prime_storage/"
_MEMORY = {"wq": "query", "wk": "key", "wv": "value", "wo": "output"}
_HEAD_NORMS = {"q_norm": "query_norm", "k_norm": "key_norm"}
_WHAT = "a TTT-E2E model"
NOT_GIVEN: Any = object()  # where None has a meaning of its own


def load_e2e(
    params: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    *,
    num_heads: int | None = None,
    window: int | None = None,
    chunk: int | None = None,
    inner_lr: float | None = None,
    inner_clip: float | None = NOT_GIVEN,
    rope_theta: float | None = None,
    rms_norm_eps: float | None = None,
) -> NestedLanguageModel:
    """Our model with weights of TTT-E2E's authors' JAX code: a flat dict of arrays under the names above.

    `config` is the run's resolved configuration as nested dicts, with sections `model` and `training`; arguments are
    for arrays that come without one. `window` and `chunk` count tokens, and they and the heads must be given in one of
    the two. Of what neither gives, `inner_lr` and `inner_clip` are 1, `rope_theta` 500,000 and `rms_norm_eps` 1e-6, as
    in the released models, and a warning says so. An `inner_clip` of None or 0 is no clipping.

    Two things of that code's training are not in the model. The inner rate has no warm-up (`nested/outer.py` has one).
    And that code takes targets that are `bos_token_id` out of every loss, where ours counts all: both agree on texts
    in which that token is at most the first. Raises CourseError for names that lack or that it does not know, for
    shapes that do not fit, and as `read_options` does. `save_e2e` goes the other way.
    """
    arguments = dict(
        num_heads=num_heads,
        window=window,
        chunk=chunk,
        inner_lr=inner_lr,
        inner_clip=0.0 if inner_clip is None else inner_clip,
        rope_theta=rope_theta,
        rms_norm_eps=rms_norm_eps,
    )
    if inner_clip is NOT_GIVEN:
        arguments["inner_clip"] = None
    options = read_options(config, arguments)
    arrays = _checked_arrays(params, options.num_heads)
    layers, _, hidden = arrays[_BLOCKS + "feed_forward/w1/weight"].shape
    suffix, _, fast_hidden = arrays[_PRIME + "feed_forward_prime/w1/weight"].shape
    vocab, width = arrays[_MODEL + "wte/weight"].shape
    of_arrays = dict(vocab_size=vocab, hidden_size=width, num_hidden_layers=layers, suffix_len=suffix)
    for name, value in of_arrays.items():
        check_size(name, options.sizes.get(name, value), value, "the shapes of the arrays")
    for value in (hidden, fast_hidden):
        check_size("intermediate_size", options.sizes.get("intermediate_size", value), value, "w1/weight")
    model_config = e2e_config(
        vocab=vocab,
        width=width,
        layers=layers,
        heads=options.num_heads,
        hidden=hidden,
        window=options.window,
        chunk=options.chunk,
        suffix=suffix,
        fast_hidden=fast_hidden,
        rate=options.inner_lr,
        clip=options.inner_clip,
        rope_theta=options.rope_theta,
        norm_eps=options.rms_norm_eps,
    )
    with seeded(0):  # what is drawn here is overwritten
        model = NestedLanguageModel(model_config).to(arrays[_MODEL + "wte/weight"])
    model.load_state_dict(_our_weights(arrays, layers, suffix))
    return model


def save_e2e(model: NestedLanguageModel, gradients: bool = False) -> dict[str, Tensor]:
    """The model's weights under the official names, or their gradients (0 where there is none). Raises CourseError for
    a model that has no place for some of them, or more than they hold."""
    return _official_arrays(model, _gradient if gradients else torch.Tensor.detach)


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


# -- reading -------------------------------------------------------------------------------------------------------
def _checked_arrays(params: Mapping[str, Any], heads: int) -> dict[str, Tensor]:
    """The arrays as tensors, all of them there and of shapes that fit each other."""
    # The names do not depend on the sizes, which the arrays tell once it is certain that they are there.
    check_names(params, _shapes(1, 1, 1, heads, 1, 1, heads), _WHAT)
    arrays = {name: _tensor(name, array) for name, array in params.items()}
    vocab, width = _shape(arrays, _MODEL + "wte/weight", 2)
    layers, _, hidden = _shape(arrays, _BLOCKS + "feed_forward/w1/weight", 3)
    suffix, _, fast_hidden = _shape(arrays, _PRIME + "feed_forward_prime/w1/weight", 3)
    if width % heads:
        raise CourseError(f"num_heads is {heads}, which does not divide the width {width} of the arrays.")
    if not 1 <= suffix <= layers:
        raise CourseError(f"there are {suffix} fast MLPs (prime_storage) for {layers} blocks.")
    check_shapes(arrays, _shapes(layers, suffix, vocab, width, hidden, fast_hidden, heads))
    return arrays


def _shapes(layers: int, suffix: int, vocab: int, d: int, f: int, prime: int, heads: int) -> dict[str, tuple[int, ...]]:
    """The shape of every array, by its name."""
    shapes = {_MODEL + "wte": (vocab, d), _MODEL + "ln_f": (d,)}
    shapes |= {f"{_BLOCKS}seq_modeling_block/{name}": (layers, d, d) for name in _MEMORY}
    shapes |= {f"{_BLOCKS}seq_modeling_block/{name}": (layers, d // heads) for name in _HEAD_NORMS}
    for norm in ("seq_norm", "seq_post_norm", "ffn_norm", "ffn_post_norm"):
        shapes[_BLOCKS + norm] = (layers, d)
    for norm in ("ffn_prime_norm", "ffn_prime_post_norm"):
        shapes[_PRIME + norm] = (suffix, d)
    for mlp, count, hidden in ((_BLOCKS + "feed_forward", layers, f), (_PRIME + "feed_forward_prime", suffix, prime)):
        shapes |= {f"{mlp}/w1": (count, d, hidden), f"{mlp}/w2": (count, hidden, d), f"{mlp}/w3": (count, d, hidden)}
    return {f"{name}/weight": shape for name, shape in shapes.items()}


def _our_weights(arrays: Mapping[str, Tensor], layers: int, suffix: int) -> dict[str, Tensor]:
    """The arrays under our names, each block by itself."""
    weights = {"embedding.weight": arrays[_MODEL + "wte/weight"], "norm.weight": arrays[_MODEL + "ln_f/weight"]}
    fast_start = layers - suffix  # the first block that has a fast MLP
    for i in range(layers):
        block = _stacked(arrays, _BLOCKS, i)
        for theirs, ours in _MEMORY.items():
            # Theirs are applied as x @ W, nn.Linear's as x @ W.T.
            weights[f"layers.{i}.memory.{ours}.weight"] = block[f"seq_modeling_block/{theirs}/weight"].T  # (d, d)
        for theirs, ours in _HEAD_NORMS.items():
            weights[f"layers.{i}.memory.{ours}.weight"] = block[f"seq_modeling_block/{theirs}/weight"]
        weights[f"layers.{i}.memory_norm.weight"] = block["seq_norm/weight"]
        weights[f"layers.{i}.memory_post_norm.weight"] = block["seq_post_norm/weight"]
        # The static MLP is level 0, or level 1 where a fast one stands before it.
        weights |= _our_level(block, "feed_forward", "ffn", f"layers.{i}.levels.{int(i >= fast_start)}")
    for i in range(suffix):
        fast = _stacked(arrays, _PRIME, i)
        weights |= _our_level(fast, "feed_forward_prime", "ffn_prime", f"layers.{fast_start + i}.levels.0")
    return weights


def _stacked(arrays: Mapping[str, Tensor], prefix: str, i: int) -> dict[str, Tensor]:
    """The i-th entry of every array that is stacked under `prefix`."""
    return {name.removeprefix(prefix): w[i] for name, w in arrays.items() if name.startswith(prefix)}


def _our_level(weights: Mapping[str, Tensor], mlp: str, norm: str, ours: str) -> dict[str, Tensor]:
    """One MLP and its norms, under the name `ours` of a level."""
    gate = weights[f"{mlp}/w1/weight"]
    up = weights[f"{mlp}/w3/weight"]
    return {
        f"{ours}.first": torch.cat([gate, up], dim=1),  # (d, 2 f)
        f"{ours}.last": weights[f"{mlp}/w2/weight"],
        f"{ours}.norm.weight": weights[f"{norm}_norm/weight"],
        f"{ours}.post_norm.weight": weights[f"{norm}_post_norm/weight"],
    }


def _tensor(name: str, array: Any) -> Tensor:
    """Any array as a floating-point tensor."""
    if isinstance(array, Tensor):
        tensor = array
    else:
        array = np.asarray(array)
        if array.dtype == object:
            raise CourseError(f"{name} must be an array of floating-point numbers.")
        # JAX lends numpy its bfloat16, which torch does not read from there; float32 holds the same numbers.
        is_half = array.dtype.name == "bfloat16"
        tensor = torch.from_numpy(np.array(array, dtype=np.float32 if is_half else None))
        if is_half:
            tensor = tensor.bfloat16()
    if not tensor.is_floating_point():
        raise CourseError(f"{name} must be an array of floating-point numbers.")
    return tensor


def _shape(arrays: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    if arrays[name].dim() != axes:
        raise CourseError(f"{name} must have {axes} axes, not the shape {tuple(arrays[name].shape)}.")
    return tuple(arrays[name].shape)


# -- writing -------------------------------------------------------------------------------------------------------
def _official_arrays(model: NestedLanguageModel, value: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """What `value` makes of each parameter, stacked over the blocks under the official names."""
    blocks = model.layers
    levels = [level for block in blocks for level in block.levels]
    if any(level.post_norm is None for level in levels) or not model.config.tied:
        raise CourseError("only a model made by e2e_config has a place for all its weights under TTT-E2E's names.")
    arrays = {_MODEL + "wte": value(model.embedding.weight), _MODEL + "ln_f": value(model.norm.weight)}
    for theirs, ours in _MEMORY.items():
        matrices = [value(getattr(block.memory, ours).weight).T for block in blocks]
        arrays[f"{_BLOCKS}seq_modeling_block/{theirs}"] = torch.stack(matrices)  # (L, d, d)
    for theirs, ours in _HEAD_NORMS.items():
        gains = [value(getattr(block.memory, ours).weight) for block in blocks]
        arrays[f"{_BLOCKS}seq_modeling_block/{theirs}"] = torch.stack(gains)  # (L, d / heads)
    arrays[_BLOCKS + "seq_norm"] = torch.stack([value(block.memory_norm.weight) for block in blocks])
    arrays[_BLOCKS + "seq_post_norm"] = torch.stack([value(block.memory_post_norm.weight) for block in blocks])
    static = [block.levels[-1] for block in blocks]
    fast = [block.levels[0] for block in blocks if len(block.levels) == 2]
    arrays |= _official_levels(static, _BLOCKS + "feed_forward", _BLOCKS + "ffn", value)
    arrays |= _official_levels(fast, _PRIME + "feed_forward_prime", _PRIME + "ffn_prime", value)
    return {f"{name}/weight": w for name, w in arrays.items()}


def _official_levels(levels: list[Level], mlp: str, norm: str, value: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The MLPs of some blocks and their norms, stacked under the names that begin with `mlp` and `norm`."""
    first = torch.stack([value(level.first) for level in levels])  # (L, d, 2 f)
    gate, up = first.chunk(2, dim=2)  # (L, d, f) each
    return {
        f"{mlp}/w1": gate.contiguous(),
        f"{mlp}/w2": torch.stack([value(level.last) for level in levels]),
        f"{mlp}/w3": up.contiguous(),
        f"{norm}_norm": torch.stack([value(level.norm.weight) for level in levels]),
        f"{norm}_post_norm": torch.stack([value(level.post_norm.weight) for level in levels]),
    }
