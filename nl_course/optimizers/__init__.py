"""Outer-loop memories: the optimizers of the course, by name, each a `torch.optim.Optimizer`.

    optimizer = build_optimizer("m3", model, lr=2e-3, weight_decay=0.1)

| name | memory | state of a matrix (o, d), elements |
|---|---|---|
| sgd | none (torch's) | 0 |
| momentum | a matrix of gradients | o d |
| adam, adamw | gradients and their squares (adamw is torch's) | 2 o d |
| muon | a matrix of gradients, read through Newton-Schulz | o d |
| delta-momentum | a matrix of gradients that erases before it writes | o d |
| deep-momentum | an MLP of gradients, of width h (d unless told) | o h + 2 h d |
| dgd | the layer itself, erasing before it writes | 0 |
| m3 | a fast and a slow matrix of gradients, and squares | 4 o d |
"""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError, check_choice
from nl_course.optimizers.adam import Adam
from nl_course.optimizers.base import Descent
from nl_course.optimizers.deep_momentum import DeepMomentum
from nl_course.optimizers.delta_descent import DeltaGradientDescent
from nl_course.optimizers.delta_momentum import DeltaMomentum
from nl_course.optimizers.layer_inputs import LayerInputs
from nl_course.optimizers.m3 import M3
from nl_course.optimizers.momentum import Momentum, held, span
from nl_course.optimizers.muon import Muon
from nl_course.optimizers.newton_schulz import newton_schulz, steps_for

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": Momentum,
    "adam": Adam,
    "adamw": torch.optim.AdamW,
    "muon": Muon,
    "delta-momentum": DeltaMomentum,
    "deep-momentum": DeepMomentum,
    "dgd": DeltaGradientDescent,
    "m3": M3,
}
# With these a matrix's step is as long as Adam's usually is (root mean square about 0.2 lr), so that one rate serves
# the matrices and the groups that Adam keeps.
LIKE_ADAM = {"muon": {"scale": "adam"}, "m3": {"rms": 0.2}}


def build_optimizer(name: str, model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    """The optimizer called `name` for all parameters of a model; `options` are further arguments of its class.

    Weight decay is on tensors of two or more axes only. With "muon" and "m3" embeddings and vectors are AdamW's, and
    matrices step as far as they would with Adam (our choice; `scale` and `rms` change it). Raises CourseError for a
    name or an option that it does not know, and for a model without parameters that learn.
    """
    kind = OPTIMIZERS[check_choice("optimizer", name, OPTIMIZERS)]
    known = [n for n in signature(kind).parameters if n not in ("params", "model", "adam")]
    for option in options:
        check_choice(f"option of {name}", option, known)
    matrices, embeddings, vectors = _parameters_by_kind(model)
    if name in LIKE_ADAM:
        groups = [
            {"params": matrices},
            {"params": embeddings, "adam": True},
            {"params": vectors, "adam": True, "weight_decay": 0.0},
        ]
    else:
        # A checkpoint finds an optimizer's state by a parameter's place in its group, so the order must be the model's.
        decayed = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
        groups = [{"params": decayed}, {"params": vectors, "weight_decay": 0.0}]
    if name == "dgd":
        options["model"] = model
    return kind([group for group in groups if group["params"]], **{**LIKE_ADAM.get(name, {}), **options})


def _parameters_by_kind(model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """A model's parameters that learn, each in the model's order: matrices, embeddings, and vectors with scalars."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise CourseError("the model has no parameters that learn.")
    tables = {m.weight for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    matrices, embeddings, vectors = [], [], []
    for p in parameters:
        if p.dim() < 2:
            vectors.append(p)
        elif p in tables:
            embeddings.append(p)
        else:
            matrices.append(p)
    return matrices, embeddings, vectors


__all__ = [
    "M3",
    "OPTIMIZERS",
    "Adam",
    "DeepMomentum",
    "DeltaGradientDescent",
    "DeltaMomentum",
    "Descent",
    "LayerInputs",
    "Momentum",
    "Muon",
    "build_optimizer",
    "held",
    "newton_schulz",
    "span",
    "steps_for",
]
