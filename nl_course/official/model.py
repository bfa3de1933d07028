"""A whole language model from weights of the TTT authors' PyTorch code, under that code's names.

model.embed_tokens.weight          model.norm.weight          lm_head.weight (left out, or the same, where tied)
model.layers.{i}.  seq_modeling_block.*      the TTT layer: see official/ttt.py
                   seq_norm.weight  ffn_norm.weight  mlp.{gate_proj,up_proj,down_proj}.weight
                   [conv.norm.weight  conv.conv.{weight,bias}]            the block's convolution, where it has one
"""

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories.ttt.layer import TTTConfig
from nl_course.model import LanguageModel, ModelConfig
from nl_course.official.checks import check_names, check_shapes
from nl_course.official.ttt import read_ttt
from nl_course.official.ttt_options import TTTOptions, read_options
from nl_course.seeding import seeded

# Their names in a block -> ours.
_BLOCK = {
    "seq_norm.weight": "memory_norm.weight",
    "ffn_norm.weight": "mlp_norm.weight",
    "mlp.gate_proj.weight": "mlp.gate.weight",
    "mlp.up_proj.weight": "mlp.up.weight",
    "mlp.down_proj.weight": "mlp.down.weight",
}
_CONV = {
    "conv.norm.weight": "conv_norm.weight",
    "conv.conv.weight": "conv.weight",
    "conv.conv.bias": "conv.bias",
}
_MEMORY = "seq_modeling_block."


def load_model(
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, Any] | str | os.PathLike | None = None,
    *,
    num_heads: int | None = None,
    mini_batch_size: int | None = None,
    base_lr: float | None = None,
    rope_theta: float | None = None,
    rms_norm_eps: float | None = None,
    hidden_act: str | None = None,
) -> LanguageModel:
    """Our language model with the weights of the authors' one, in their dtype.

    `config` is that model's config.json, as a dict or as a path; arguments are those of `load_ttt`. Of what neither
    gives, `rms_norm_eps` is 1e-6, `hidden_act` "silu" (the only one there is), and the rest as `load_ttt` says. Without
    a config the output is tied to the embedding where the weights have no head or the same matrix twice; with one it is
    what the config says.

    Raises CourseError for names or shapes that do not fit, for layers that differ, and as `read_options` does. The
    model has no levels that learn from its loss: `nested.from_pretrained_blocks` makes such levels of a model's MLPs.
    """
    arguments = dict(
        num_heads=num_heads,
        mini_batch_size=mini_batch_size,
        base_lr=base_lr,
        rope_theta=rope_theta,
        rms_norm_eps=rms_norm_eps,
        hidden_act=hidden_act,
    )
    options = read_options(config, arguments, needed=("base_lr", "rope_theta", "rms_norm_eps", "hidden_act"))
    model_config, weights = read_model(state_dict, options)
    with seeded(0):  # what is drawn here is overwritten
        model = LanguageModel(model_config).to(weights["embedding.weight"].dtype)
    model.load_state_dict(weights)
    return model


def read_model(state_dict: Mapping[str, Tensor], options: TTTOptions) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The config of the model that these weights belong to, and the weights under our names. Errors are those of
    `load_model`."""
    blocks = _split_blocks(state_dict)
    if not blocks:
        raise CourseError("the weights of a language model have no name that starts with model.layers.0.")
    embedding = state_dict["model.embed_tokens.weight"]
    head = state_dict.get("lm_head.weight")
    tied = _is_tied(embedding, head, options)
    weights = {"embedding.weight": embedding, "norm.weight": state_dict["model.norm.weight"]}
    if not tied:
        weights["head.weight"] = head
    taps = blocks[0]["conv.conv.weight"].shape[-1] if "conv.conv.weight" in blocks[0] else 0
    names = _BLOCK | _CONV if taps else _BLOCK
    configs = []
    for i, block in enumerate(blocks):
        memory = {name.removeprefix(_MEMORY): w for name, w in block.items() if name.startswith(_MEMORY)}
        rest = {name: w for name, w in block.items() if not name.startswith(_MEMORY)}
        config, memory_weights = read_ttt(memory, options)
        configs.append(config)
        check_names(rest, names, f"model.layers.{i}")
        for theirs, ours in names.items():
            weights[f"layers.{i}.{ours}"] = rest[theirs]
        if taps:
            weights[f"layers.{i}.conv.weight"] = rest["conv.conv.weight"][:, 0]  # (d, taps)
        for name, w in memory_weights.items():
            weights[f"layers.{i}.memory.{name}"] = w
    if any(config != configs[0] for config in configs):
        raise CourseError("the layers of the model are not all of one kind and size.")
    vocab, width = embedding.shape
    hidden = blocks[0]["mlp.gate_proj.weight"].shape[0]
    check_shapes(state_dict, _shapes(len(blocks), vocab, width, hidden, taps))
    options.check_size("vocab_size", vocab, "model.embed_tokens.weight")
    options.check_size("intermediate_size", hidden, "mlp.gate_proj.weight")
    options.check_size("num_hidden_layers", len(blocks), "model.layers.*")
    options.check_size("pre_conv", taps > 0, "conv.conv.weight")
    if taps:
        options.check_size("conv_kernel", taps, "conv.conv.weight")
    config = ModelConfig(
        vocab=vocab,
        width=width,
        layers=len(blocks),
        heads=options.num_heads,
        hidden=hidden,
        memory=f"ttt-{configs[0].kind}",
        options=_memory_options(configs[0]),
        conv=taps,
        tied=tied,
        norm_eps=options.rms_norm_eps,
    )
    return config, weights


def _is_tied(embedding: Tensor, head: Tensor | None, options: TTTOptions) -> bool:
    """Whether the output is the embedding. Files of tied models leave the head out or save the same matrix twice."""
    may_be_tied = head is None or (head.shape == embedding.shape and torch.equal(head, embedding))
    tied = options.sizes.get("tie_word_embeddings", may_be_tied)
    if tied and not may_be_tied:
        raise CourseError("tie_word_embeddings is True, but lm_head.weight is not model.embed_tokens.weight.")
    if not tied and head is None:
        raise CourseError("tie_word_embeddings is False, but the weights lack lm_head.weight.")
    return tied


def _memory_options(config: TTTConfig) -> dict:
    """The layer's settings that a model's config does not say itself."""
    options = asdict(config)
    for name in ("width", "heads", "kind"):
        del options[name]
    return options


def _split_blocks(state_dict: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The weights of each block under their names within it."""
    blocks: dict[int, dict[str, Tensor]] = {}
    outside = set()
    for name, tensor in state_dict.items():
        parts = name.split(".", 3)
        if len(parts) == 4 and parts[:2] == ["model", "layers"] and parts[2].isdigit():
            blocks.setdefault(int(parts[2]), {})[parts[3]] = tensor
        else:
            outside.add(name)
    # The head may be left out, so it is never missed.
    outside.add("lm_head.weight")
    check_names(outside, ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"], "a model")
    if sorted(blocks) != list(range(len(blocks))):
        raise CourseError(f"the model's layers must be numbered from 0 on; there are {sorted(blocks)}.")
    return [blocks[i] for i in range(len(blocks))]


def _shapes(layers: int, vocab: int, width: int, hidden: int, taps: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor outside the TTT layers, and of the layers' output, by its name."""
    block = {
        "seq_norm.weight": (width,),
        "ffn_norm.weight": (width,),
        "conv.norm.weight": (width,),
        "conv.conv.weight": (width, 1, taps),
        "conv.conv.bias": (width,),
        "mlp.gate_proj.weight": (hidden, width),
        "mlp.up_proj.weight": (hidden, width),
        "mlp.down_proj.weight": (width, hidden),
        _MEMORY + "o_proj.weight": (width, width),
    }
    shapes = {"model.norm.weight": (width,), "lm_head.weight": (vocab, width)}
    for i in range(layers):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in block.items()}
    return shapes
