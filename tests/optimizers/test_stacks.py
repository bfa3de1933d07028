"""Matrices that stand in one tensor, (heads, in, out), each step as they would alone."""

import pytest
import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.optimizers import M3, DeepMomentum, DeltaMomentum, Muon
from nl_course.optimizers.layout import as_matrix, from_matrix, is_vector
from tests.optimizers import EXACT, parameter, random, run

HEADS, IN, OUT, STEPS = 3, 4, 6, 5
# The smaller side first or last, and square: Newton-Schulz turns the tall ones.
SIZES = [(HEADS, IN, OUT), (HEADS, OUT, IN), (HEADS, IN, IN), (2, HEADS, IN, OUT)]
KINDS = {
    "muon": lambda p, **o: Muon(p, lr=0.1, weight_decay=0.1, **o),
    "muon, one after the other": lambda p, **o: Muon(p, lr=0.1, foreach=False, **o),
    "m3": lambda p, **o: M3(p, lr=0.1, slow_every=2, **o),
    "printed m3": lambda p, **o: M3(p, lr=0.1, slow_every=2, mode="printed", **o),
    "delta": lambda p, **o: DeltaMomentum(p, lr=0.1, **o),
    "delta, given": lambda p, **o: DeltaMomentum(p, lr=0.1, preconditioner=lambda g: g @ g.mT @ g, **o),
    "deep": lambda p, **o: DeepMomentum(p, lr=0.1, **o),
    "deep and orthogonal": lambda p, **o: DeepMomentum(p, lr=0.1, depth=3, width=5, output="newton-schulz", **o),
}


def after(kind: str, starts: list[Tensor], gradients: list[list[Tensor]], layout: str) -> list[Tensor]:
    """The parameters after a step with each list of gradients."""
    params = [torch.nn.Parameter(start.clone()) for start in starts]
    run(KINDS[kind](params, layout=layout), params, gradients)
    return [p.detach() for p in params]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_a_stack_steps_as_its_matrices_would_alone(kind, shape):
    start, gradients = random(*shape), [random(*shape, seed=i + 1) for i in range(STEPS)]
    for g in gradients:
        g[0] *= 100  # what the heads have in common, a norm or a scale, would show
    (stack,) = after(kind, [start], [[g] for g in gradients], "in-out")
    alone = start.reshape(-1, *shape[-2:])
    each = after(kind, list(alone), [list(g.reshape(alone.shape)) for g in gradients], "in-out")
    torch.testing.assert_close(stack.reshape(alone.shape), torch.stack(each), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(IN, OUT), (OUT, IN)], ids=str)
def test_inputs_first_is_outputs_first_turned(kind, shape):
    start, gradients = random(*shape), [random(*shape, seed=i + 1) for i in range(STEPS)]
    (turned,) = after(kind, [start.mT], [[g.mT] for g in gradients], "in-out")
    (plain,) = after(kind, [start], [[g] for g in gradients], "out-in")
    torch.testing.assert_close(turned.mT, plain, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_vectors_step_as_they_would_alone(kind):
    start, gradients = random(HEADS, 1, OUT), [random(HEADS, 1, OUT, seed=i + 1) for i in range(STEPS)]
    (stack,) = after(kind, [start], [[g] for g in gradients], "vectors")
    each = after(kind, list(start[:, 0]), [list(g[:, 0]) for g in gradients], "out-in")
    torch.testing.assert_close(stack[:, 0], torch.stack(each), rtol=1e-13, atol=1e-13)


def test_by_itself_an_optimizer_takes_all_axes_but_the_first_together():
    """`Muon(model.parameters())` knows no roles: right for a convolution, and said so in the documentation."""
    start, g = random(HEADS, IN, OUT), random(HEADS, IN, OUT, seed=1)
    (whole,) = after("muon", [start], [[g]], "out-in")
    (flat,) = after("muon", [start.flatten(1)], [[g.flatten(1)]], "out-in")
    assert torch.equal(whole.flatten(1), flat)
    assert "everything else" in Muon.__doc__


@pytest.mark.parametrize("layout", ["out-in", "in-out", "vectors"])
@pytest.mark.parametrize("shape", [(), (3,), (3, 4), (2, 3, 4), (2, 1, 3, 4)], ids=str)
def test_a_tensor_is_its_matrices(layout, shape):
    tensor = random(*shape)
    matrix = as_matrix(tensor, layout)
    assert matrix.dim() >= 2 and torch.equal(from_matrix(matrix, tensor, layout), tensor)
    if is_vector(tensor, layout):
        assert matrix.shape[-2] == 1 and matrix.shape[-1] == (shape[-1] if shape else 1)
    assert is_vector(tensor, layout) == (layout == "vectors" or len(shape) < 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layout_that_does_not_exist_is_named(kind):
    with pytest.raises(CourseError, match=r"layout 'out_in' is not known; .* Did you mean 'out-in'"):
        KINDS[kind]([parameter(2, 2)], layout="out_in")
