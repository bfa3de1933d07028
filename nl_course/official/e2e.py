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

from nl_course.errors import CourseError, check_int
from nl_course.nested.config import NestedConfig
from nl_course.nested.e2e import e2e_config
from nl_course.official.ttt import same_names, same_shapes

_MODEL = "language_model/model/"
_BLOCKS, _PRIME = _MODEL + "h/blocks/", _MODEL + "h/prime_storage/"
_MEMORY = {"wq": "query", "wk": "key", "wv": "value", "wo": "output"}
_HEAD_NORMS = {"q_norm": "query_norm", "k_norm": "key_norm"}
_WHAT = "a TTT-E2E model"


def _shapes(layers: int, suffix: int, vocab: int, d: int, f: int, prime: int, heads: int) -> dict[str, tuple]:
    """The shape of every array, by its name."""
    shapes = {_MODEL + "wte": (vocab, d), _MODEL + "ln_f": (d,)}
    shapes |= {f"{_BLOCKS}seq_modeling_block/{name}": (layers, d, d) for name in _MEMORY}
    shapes |= {f"{_BLOCKS}seq_modeling_block/{name}": (layers, d // heads) for name in _HEAD_NORMS}
    shapes |= {f"{_BLOCKS}{part}{post}_norm": (layers, d) for part in ("seq", "ffn") for post in ("", "_post")}
    shapes |= {f"{_PRIME}ffn_prime{post}_norm": (suffix, d) for post in ("", "_post")}
    for mlp, count, hidden in ((_BLOCKS + "feed_forward", layers, f), (_PRIME + "feed_forward_prime", suffix, prime)):
        shapes |= {f"{mlp}/w1": (count, d, hidden), f"{mlp}/w2": (count, hidden, d), f"{mlp}/w3": (count, d, hidden)}
    return {f"{name}/weight": shape for name, shape in shapes.items()}


def read_e2e(
    params: Mapping[str, Any],
    *,
    num_heads: int,
    window: int,
    chunk: int,
    inner_lr: float = 1.0,
    inner_clip: float | None = 1.0,
    rope_theta: float = 500_000.0,
) -> tuple[NestedConfig, dict[str, Tensor]]:
    """The config of the model that these arrays belong to, and the weights under our names. Raises CourseError for
    names that lack or that it does not know, and for shapes that do not fit."""
    heads = check_int("num_heads", num_heads, 1)
    same_names(params, _shapes(1, 1, 1, heads, 1, 1, heads), _WHAT)
    arrays = {name: _tensor(name, array) for name, array in params.items()}
    vocab, d = _size(arrays, _MODEL + "wte/weight", 2)
    layers, _, hidden = _size(arrays, _BLOCKS + "feed_forward/w1/weight", 3)
    suffix, _, prime = _size(arrays, _PRIME + "feed_forward_prime/w1/weight", 3)
    if d % heads:
        raise CourseError(f"num_heads is {heads}, which does not divide the width {d} of the arrays.")
    if not 1 <= suffix <= layers:
        raise CourseError(f"there are {suffix} fast MLPs (prime_storage) for {layers} blocks.")
    same_shapes(arrays, _shapes(layers, suffix, vocab, d, hidden, prime, heads))
    config = e2e_config(
        vocab=vocab,
        width=d,
        layers=layers,
        heads=heads,
        hidden=hidden,
        window=window,
        chunk=check_int("chunk", chunk, 1),
        suffix=suffix,
        fast_hidden=prime,
        rate=inner_lr,
        clip=inner_clip,
        rope_theta=rope_theta,
    )
    ours = {"embedding.weight": arrays[_MODEL + "wte/weight"], "norm.weight": arrays[_MODEL + "ln_f/weight"]}
    for i in range(layers):
        block = {name.removeprefix(_BLOCKS): w[i] for name, w in arrays.items() if name.startswith(_BLOCKS)}
        ours |= {f"layers.{i}.{name}": w for name, w in _block(block, level=int(i >= layers - suffix)).items()}
    for i in range(suffix):
        fast = {name.removeprefix(_PRIME): w[i] for name, w in arrays.items() if name.startswith(_PRIME)}
        found = _level(fast, "feed_forward_prime", "ffn_prime")
        ours |= {f"layers.{layers - suffix + i}.levels.0.{name}": w for name, w in found.items()}
    return config, ours


def _block(block: Mapping[str, Tensor], level: int) -> dict[str, Tensor]:
    """A block's weights under our names; its static MLP is level 0, or 1 where a fast one stands before it."""
    memory = {f"memory.{ours}.weight": block[f"seq_modeling_block/{name}/weight"].T for name, ours in _MEMORY.items()}
    memory |= {f"memory.{ours}.weight": block[f"seq_modeling_block/{n}/weight"] for n, ours in _HEAD_NORMS.items()}
    norms = {f"memory{post}_norm.weight": block[f"seq{post}_norm/weight"] for post in ("", "_post")}
    mlp = _level(block, "feed_forward", "ffn")
    return memory | norms | {f"levels.{level}.{name}": w for name, w in mlp.items()}


def _level(weights: Mapping[str, Tensor], mlp: str, norm: str) -> dict[str, Tensor]:
    w1, w2, w3 = (weights[f"{mlp}/{name}/weight"] for name in ("w1", "w2", "w3"))
    norms = {"norm.weight": weights[f"{norm}_norm/weight"], "post_norm.weight": weights[f"{norm}_post_norm/weight"]}
    return {"first": torch.cat([w1, w3], dim=1), "last": w2, **norms}


def write_e2e(model, value: Callable[[Tensor], Tensor] = torch.Tensor.detach) -> dict[str, Tensor]:
    """A model's parameters under the official names, or what `value` makes of each, such as its gradient."""
    blocks = model.layers
    if any(level.post_norm is None for block in blocks for level in block.levels) or not model.config.tied:
        raise CourseError("only a model made by e2e_config has a place for all its weights under TTT-E2E's names.")
    prime = [block.levels[0] for block in blocks if len(block.levels) == 2]
    out = {_MODEL + "wte": value(model.embedding.weight), _MODEL + "ln_f": value(model.norm.weight)}
    for name, ours in _MEMORY.items():
        layer = torch.stack([value(getattr(block.memory, ours).weight).T for block in blocks])
        out[f"{_BLOCKS}seq_modeling_block/{name}"] = layer
    for name, ours in _HEAD_NORMS.items():
        norm = torch.stack([value(getattr(block.memory, ours).weight) for block in blocks])
        out[f"{_BLOCKS}seq_modeling_block/{name}"] = norm
    out[_BLOCKS + "seq_norm"] = torch.stack([value(block.memory_norm.weight) for block in blocks])
    out[_BLOCKS + "seq_post_norm"] = torch.stack([value(block.memory_post_norm.weight) for block in blocks])
    for at, mlp, norm, levels in (
        (_BLOCKS, "feed_forward", "ffn", [block.levels[-1] for block in blocks]),
        (_PRIME, "feed_forward_prime", "ffn_prime", prime),
    ):
        first = [value(level.first).chunk(2, dim=1) for level in levels]
        out[f"{at}{mlp}/w1"], out[f"{at}{mlp}/w3"] = (torch.stack([pair[j] for pair in first]) for j in (0, 1))
        out[f"{at}{mlp}/w2"] = torch.stack([value(level.last) for level in levels])
        out[f"{at}{norm}_norm"] = torch.stack([value(level.norm.weight) for level in levels])
        out[f"{at}{norm}_post_norm"] = torch.stack([value(level.post_norm.weight) for level in levels])
    return {f"{name}/weight": w for name, w in out.items()}


def _tensor(name: str, array: Any) -> Tensor:
    """Any array as a floating-point tensor."""
    if not isinstance(array, Tensor):
        array = np.asarray(array)
        half = array.dtype.name == "bfloat16"  # a dtype that numpy has from elsewhere, and torch does not read
        array = torch.from_numpy(np.array(array, dtype=np.float32 if half else None)) if array.dtype != object else None
        array = array.bfloat16() if half else array
    if array is None or not array.is_floating_point():
        raise CourseError(f"{name} must be an array of floating-point numbers.")
    return array


def _size(arrays: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    if arrays[name].dim() != axes:
        raise CourseError(f"{name} must have {axes} axes, not the shape {tuple(arrays[name].shape)}.")
    return tuple(arrays[name].shape)
