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

Optimizers know only tensors. What a tensor is, its module says (nl_course/roles.py), and `build_optimizer` makes groups
of parameters from that (groups.py).
"""

import sys
from inspect import signature
from typing import Any

import torch
from torch import nn

from nl_course.errors import CourseError, check_choice, shortened
from nl_course.optimizers.adam import Adam
from nl_course.optimizers.base import Descent, check_state_dict
from nl_course.optimizers.deep_momentum import DeepMomentum
from nl_course.optimizers.delta_descent import DeltaGradientDescent
from nl_course.optimizers.delta_momentum import DeltaMomentum
from nl_course.optimizers.groups import former_groups, groups_by_role
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

    Weight decay is on matrices, embeddings and output heads only. With "muon" and "m3" all that is no matrix is
    AdamW's, and matrices step as far as they would with Adam (our choice; `scale` and `rms` change it). Raises
    CourseError for a name or an option that it does not know, for a number that is not finite, and for a model without
    parameters that learn.
    """
    kind = OPTIMIZERS[check_choice("optimizer", name, OPTIMIZERS)]
    known = [n for n in signature(kind).parameters if n not in ("params", "model", "adam", "layout")]
    for option, value in options.items():
        check_choice(f"option of {name}", option, known)
        _check_numbers(option, value)
    if not isinstance(model, nn.Module):
        raise CourseError(f"an optimizer is built for a model, not for {type(model).__name__}.")
    groups = groups_by_role(kind, model)
    if name == "dgd":
        options["model"] = model
    try:
        return kind(groups, **{**LIKE_ADAM.get(name, {}), **options})
    except CourseError:
        raise
    except (TypeError, ValueError) as error:  # torch's own classes check their settings in their own words
        raise CourseError(f"{name} cannot be built with these options: {error}") from error


def _check_numbers(option: str, value: object) -> None:
    """Raises CourseError for a number, or one in a tuple, that is not finite: torch's own classes would take it."""
    for number in value if isinstance(value, (tuple, list)) else (value,):
        # So that it also catches what is not a number, and a whole number that no float can hold.
        if isinstance(number, (int, float)) and not abs(number) <= sys.float_info.max:
            raise CourseError(f"{option} must be a finite number, not {shortened(number)}.")


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
    "check_state_dict",
    "former_groups",
    "held",
    "newton_schulz",
    "span",
    "steps_for",
]
