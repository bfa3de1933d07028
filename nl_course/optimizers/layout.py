"""How the axes of a parameter are read by the optimizers that treat matrices apart.

An optimizer is given tensors, not the modules that made them, and a shape does not say where its matrices are. So a
group of parameters says it, in its setting `layout` (nl_course/roles.py):

    out-in    one matrix (o, d), further axes counted with the inputs; a vector is one row         the default
    in-out    (..., d, o): the last two axes are a matrix, and each one steps by itself
    vectors   (..., f): each row of the last axis is a vector by itself, and none of them is a matrix

`build_optimizer` makes such groups from the roles of a model's parameters. `Muon(model.parameters())` knows no roles:
all its parameters are then read as "out-in", which is right for linear layers and convolutions, and for nothing else.
"""

from typing import Any

from torch import Tensor

from nl_course.errors import check_choice
from nl_course.roles import LAYOUTS


def check_layout(group: dict[str, Any]) -> None:
    """Raises CourseError for a layout that does not exist."""
    check_choice("layout", group["layout"], LAYOUTS)


def as_matrix(tensor: Tensor, layout: str = "out-in") -> Tensor:
    """A parameter, or a tensor of its shape, as one matrix (o, d) or several (..., o, d); vectors are matrices of one
    row."""
    if tensor.dim() == 0:
        return tensor.reshape(1, 1)
    if layout == "vectors" or tensor.dim() == 1:
        return tensor.unsqueeze(-2)  # (..., 1, f)
    if layout == "in-out":
        return tensor.mT  # (..., o, d)
    return tensor.flatten(1) if tensor.dim() > 2 else tensor  # (o, d)


def from_matrix(matrix: Tensor, like: Tensor, layout: str = "out-in") -> Tensor:
    """The tensor in the shape of `like` whose `as_matrix` is `matrix`."""
    if layout == "in-out" and like.dim() >= 2:
        return matrix.mT
    return matrix.reshape(like.shape)


def is_vector(tensor: Tensor, layout: str = "out-in") -> bool:
    """Whether a parameter holds vectors or a scalar, and no matrix."""
    return layout == "vectors" or tensor.dim() < 2
