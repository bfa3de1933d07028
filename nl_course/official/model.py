"""A whole language model from weights of the TTT authors' PyTorch code, under that code's names.

model.embed_tokens.weight          model.norm.weight          lm_head.weight (left out, or the same, where tied)
model.layers.{i}.  seq_modeling_block.*      the TTT layer: see official/ttt.py
                   seq_norm.weight  ffn_norm.weight  mlp.{gate_proj,up_proj,down_proj}.weight
                   [conv.norm.weight  conv.conv.{weight,bias}]            the block's convolution, where it has one
"""

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories.ttt.layer import TTTConfig
from nl_course.model import LanguageModel, ModelConfig
from nl_course.official.checks import check_names, check_shapes
from nl_course.official.ttt import read_ttt

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
    state_dict: Mapping[str, Tensor], *, num_heads: int, mini_batch_size: int = 16, base_lr: float | None = None
) -> LanguageModel:
    """Our language model with the weights of the authors' one, in their dtype. Options are those of `load_ttt`.

    Raises CourseError for names or shapes that do not fit, or for layers that differ. The model has no levels that
    learn from its loss: `nested.from_pretrained_blocks` makes such levels of a model's MLPs.
    """
    config, weights = read_model(state_dict, num_heads, mini_batch_size, base_lr)
    model = LanguageModel(config).to(weights["embedding.weight"].dtype)
    model.load_state_dict(weights)
    return model


def read_model(
    state_dict: Mapping[str, Tensor], num_heads: int, mini_batch_size: int = 16, base_lr: float | None = None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The config of the model that these weights belong to, and the weights under our names. Arguments and errors are
    those of `load_model`."""
    blocks = _split_blocks(state_dict)
    if not blocks:
        raise CourseError("the weights of a language model have no name that starts with model.layers.0.")
    embedding = state_dict["model.embed_tokens.weight"]
    head = state_dict.get("lm_head.weight")
    # Files of tied models either leave the head out or save the same matrix twice.
    tied = head is None or (head.shape == embedding.shape and torch.equal(head, embedding))
    weights = {"embedding.weight": embedding, "norm.weight": state_dict["model.norm.weight"]}
    if not tied:
        weights["head.weight"] = head
    taps = blocks[0]["conv.conv.weight"].shape[-1] if "conv.conv.weight" in blocks[0] else 0
    names = _BLOCK | _CONV if taps else _BLOCK
    configs = []
    for i, block in enumerate(blocks):
        memory = {name.removeprefix(_MEMORY): w for name, w in block.items() if name.startswith(_MEMORY)}
        rest = {name: w for name, w in block.items() if not name.startswith(_MEMORY)}
        config, memory_weights = read_ttt(memory, num_heads, mini_batch_size, base_lr)
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
    config = ModelConfig(
        vocab=vocab,
        width=width,
        layers=len(blocks),
        heads=num_heads,
        hidden=hidden,
        memory=f"ttt-{configs[0].kind}",
        options=_memory_options(configs[0]),
        conv=taps,
        tied=tied,
    )
    return config, weights


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
