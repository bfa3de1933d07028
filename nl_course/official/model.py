"""A whole language model from weights of the TTT authors' PyTorch code, under that code's names.

model.embed_tokens.weight          model.norm.weight          lm_head.weight (left out, or the same, where tied)
model.layers.{i}.  seq_modeling_block.*      the TTT layer: see memories/ttt_official.py
                   seq_norm.weight  ffn_norm.weight  mlp.{gate_proj,up_proj,down_proj}.weight
                   [conv.norm.weight  conv.conv.{weight,bias}]            the block's convolution, where it has one
"""

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.model import ModelConfig
from nl_course.official.ttt import read_layer, same_names, same_shapes

_BLOCK = {  # theirs -> ours
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


def read_model(
    weights: Mapping[str, Tensor], num_heads: int, mini_batch_size: int = 16, base_lr: float | None = None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The config of the model that these weights belong to, and the weights under our names. Raises CourseError for
    names or shapes that do not fit, or for layers that differ."""
    blocks = _split(weights)
    if not blocks:
        raise CourseError("the weights of a language model have no name that starts with model.layers.0.")
    embedding, head = weights["model.embed_tokens.weight"], weights.get("lm_head.weight")
    tied = head is None or (head.shape == embedding.shape and torch.equal(head, embedding))
    ours = {"embedding.weight": embedding, "norm.weight": weights["model.norm.weight"]}
    if not tied:
        ours["head.weight"] = head
    conv = blocks[0]["conv.conv.weight"].shape[-1] if "conv.conv.weight" in blocks[0] else 0
    configs = []
    for i, block in enumerate(blocks):
        memory = {name.removeprefix(_MEMORY): w for name, w in block.items() if name.startswith(_MEMORY)}
        config, memory_weights = read_layer(memory, num_heads, mini_batch_size, base_lr)
        configs.append(config)
        names = _BLOCK | (_CONV if conv else {})
        same_names(set(block) - {_MEMORY + name for name in memory}, names, f"model.layers.{i}")
        found = {ours_: block[theirs] for theirs, ours_ in names.items()} | {
            f"memory.{name}": w for name, w in memory_weights.items()
        }
        if conv:
            found["conv.weight"] = found["conv.weight"][:, 0]
        ours |= {f"layers.{i}.{name}": w for name, w in found.items()}
    if any(config != configs[0] for config in configs):
        raise CourseError("the layers of the model are not all of one kind and size.")
    vocab, width = embedding.shape
    hidden = blocks[0]["mlp.gate_proj.weight"].shape[0]
    _check_shapes(weights, len(blocks), vocab, width, hidden, conv)
    options = asdict(configs[0])
    del options["width"], options["heads"], options["kind"]
    config = ModelConfig(
        vocab=vocab,
        width=width,
        layers=len(blocks),
        heads=num_heads,
        hidden=hidden,
        memory=f"ttt-{configs[0].kind}",
        options=options,
        conv=conv,
        tied=tied,
    )
    return config, ours


def _split(weights: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The weights of each block under their names within it."""
    blocks: dict[int, dict[str, Tensor]] = {}
    rest = []
    for name, tensor in weights.items():
        parts = name.split(".", 3)
        if len(parts) == 4 and parts[:2] == ["model", "layers"] and parts[2].isdigit():
            blocks.setdefault(int(parts[2]), {})[parts[3]] = tensor
        else:
            rest.append(name)
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    same_names({*rest, "lm_head.weight"}, names, "a model")
    if sorted(blocks) != list(range(len(blocks))):
        raise CourseError(f"the model's layers must be numbered from 0 on; there are {sorted(blocks)}.")
    return [blocks[i] for i in range(len(blocks))]


def _check_shapes(weights: Mapping[str, Tensor], layers: int, vocab: int, width: int, hidden: int, conv: int) -> None:
    shapes = {"model.norm.weight": (width,), "lm_head.weight": (vocab, width)}
    for i in range(layers):
        block = dict.fromkeys(("seq_norm.weight", "ffn_norm.weight", "conv.norm.weight"), (width,))
        block |= {"mlp.gate_proj.weight": (hidden, width), "mlp.up_proj.weight": (hidden, width)}
        block |= {"mlp.down_proj.weight": (width, hidden), _MEMORY + "o_proj.weight": (width, width)}
        block |= {"conv.conv.weight": (width, 1, conv), "conv.conv.bias": (width,)}
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in block.items()}
    same_shapes(weights, shapes)
