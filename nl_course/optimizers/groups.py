"""Which parameters of a model an optimizer keeps in one group, with which settings: told by their roles.

    matrices     (out, in)                    decay; Muon and its kind read their singular values
    stacks       (..., in, out)               decay; each matrix of them steps by itself
    tables       embeddings, output heads     decay; their rows belong to different tokens, so they are no matrices
    others       gains, biases, taps, ...     never decay

An optimizer that works element by element needs two groups only: what decays, and what does not.

Before parameters had roles, their number of axes decided. A run that was begun then has groups of that kind in its
checkpoint, and goes on with them: `former_groups`.
"""

from collections.abc import Iterable
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError
from nl_course.roles import Role, roles_by_parameter

Group = dict[str, Any]  # as torch has it: "params", and the settings that differ from the optimizer's own


def groups_by_role(kind: type[torch.optim.Optimizer], model: nn.Module) -> list[Group]:
    """The groups of a model's parameters that learn, for an optimizer of that class; each in the model's order.

    Raises CourseError for a model without parameters that learn.
    """
    tables = settings_apart(kind)
    settings = {
        "decayed": {},
        "matrices": {},
        "stacks": {"layout": "in-out"},
        "tables": tables,
        "others": {**tables, "weight_decay": 0.0},
    }
    members: dict[str, list[Tensor]] = {name: [] for name in settings}
    for parameter, role in roles_by_parameter(model).items():
        if parameter.requires_grad:
            members[_group_of(role, kind)].append(parameter)
    return _filled([(members[name], settings[name]) for name in settings])


def _group_of(role: Role, kind: type[torch.optim.Optimizer]) -> str:
    if not role.decays:
        return "others"
    if not _takes(kind, "layout"):
        return "decayed"
    if not role.is_matrix:
        return "tables"
    return "matrices" if role.layout == "out-in" else "stacks"


def settings_apart(kind: type[torch.optim.Optimizer]) -> Group:
    """The settings with which an optimizer that treats matrices apart steps what is none: by Adam, if it has it."""
    if _takes(kind, "adam"):
        return {"adam": True}
    return {"layout": "vectors"} if _takes(kind, "layout") else {}


def groups_by_shape(kind: type[torch.optim.Optimizer], model: nn.Module) -> list[Group]:
    """The groups that earlier versions made: by the number of axes, and by whether a table is an embedding."""
    tables = {m.weight for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    decayed, matrices, embeddings, vectors = [], [], [], []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.dim() < 2:
            vectors.append(parameter)
            continue
        decayed.append(parameter)
        (embeddings if parameter in tables else matrices).append(parameter)
    if _takes(kind, "adam"):
        apart = {"adam": True}
        return _filled([(matrices, {}), (embeddings, apart), (vectors, {**apart, "weight_decay": 0.0})])
    return _filled([(decayed, {}), (vectors, {"weight_decay": 0.0})])


def former_groups(
    optimizer: torch.optim.Optimizer, model: nn.Module, sizes: list[int] | None = None
) -> list[Group] | None:
    """The groups with which a run of an earlier version goes on, complete with settings.

    `sizes` are those of the groups in its checkpoint, if they are known. None if they are not what that version made of
    this model, or if the optimizer is not grouped as `build_optimizer` does it: then nobody knows which parameter is
    which.
    """
    kind = type(optimizer)
    by_role = [group["params"] for group in groups_by_role(kind, model)]
    if not _same(by_role, [group["params"] for group in optimizer.param_groups]):
        return None
    groups = groups_by_shape(kind, model)
    if sizes is not None and sizes != [len(group["params"]) for group in groups]:
        return None
    # A schedule has added settings of its own to every group.
    return [{**optimizer.param_groups[0], **optimizer.defaults, **group} for group in groups]


def _same(a: list[list[Tensor]], b: list[list[Tensor]]) -> bool:
    """Whether the same tensors stand in the same places."""
    return [list(map(id, group)) for group in a] == [list(map(id, group)) for group in b]


def _filled(groups: Iterable[tuple[list[Tensor], Group]]) -> list[Group]:
    filled = [{"params": params, **settings} for params, settings in groups if params]
    if not filled:
        raise CourseError("the model has no parameters that learn.")
    return filled


def _takes(kind: type[torch.optim.Optimizer], setting: str) -> bool:
    return setting in signature(kind).parameters
