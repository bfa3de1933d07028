"""Newton-Schulz: where the singular values end up, whichever way it is called."""

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.optimizers.newton_schulz import newton_schulz, orthogonalize, steps_for
from tests.optimizers import EXACT, random

# Square, nearly square and clearly rectangular: the matrices of the course's models, and the smallest there are.
SHAPES = [(1, 1), (1, 9), (2, 2), (16, 16), (64, 64), (128, 128), (128, 352), (256, 256), (256, 280), (704, 256)]


def values(shape, seed=0, **options):
    return torch.linalg.svdvals(newton_schulz(random(*shape, seed=seed, dtype=torch.float32), **options))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("kind", "precision", "least", "most"),
    [("quintic", "full", 0.5, 1.25), ("quintic", "bf16", 0.5, 1.3), ("cubic", "full", 0.5, 1.001)],
)
def test_default_steps_bring_singular_values_near_one(shape, kind, precision, least, most):
    singular = values(shape, kind=kind, precision=precision)
    assert least < singular.min() and singular.max() < most, (singular.min(), singular.max())


def test_five_steps_are_too_few_for_a_square_and_enough_for_a_rectangle():
    assert values((256, 256), steps=5).min() < 0.3
    assert values((256, 256), steps=7).min() > 0.6
    assert values((704, 256), steps=5).min() > 0.6
    assert steps_for(256, 256) > 7 >= steps_for(16, 16) and steps_for(704, 256) == 5 == steps_for(1, 300)


def test_three_cubic_steps_are_far_from_orthogonal():
    singular = values((256, 256), steps=3, kind="cubic")
    assert 0.37 < singular.max() < 0.43 and 0.14 < singular.median() < 0.20


def test_nine_squares_of_ten_are_brought_near_one():
    good = sum(values((32, 32), seed=seed).min().item() > 0.5 for seed in range(100))
    assert 85 <= good < 100, "a square Gaussian matrix may be as good as singular"


def test_enough_cubic_steps_give_the_orthogonal_factor():
    X = random(4, 7)
    U, _, Vh = torch.linalg.svd(X, full_matrices=False)
    torch.testing.assert_close(newton_schulz(X, steps=40, kind="cubic"), U @ Vh, **EXACT)


def test_a_cubic_step_is_a_gradient_step_of_an_eighth():
    X = random(4, 7)
    X = (X / X.norm()).requires_grad_()
    loss = (X @ X.T - torch.eye(4)).square().sum()
    wanted = X - torch.autograd.grad(loss, X)[0] / 8
    torch.testing.assert_close(newton_schulz(X.detach(), steps=1, kind="cubic"), wanted.detach(), **EXACT)


def test_tall_is_wide_turned_and_a_batch_is_its_matrices():
    X = random(3, 4, 7, 5)
    together = newton_schulz(X, steps=6)
    torch.testing.assert_close(together, newton_schulz(X.mT, steps=6).mT, **EXACT)
    for i in range(3):
        for j in range(4):
            torch.testing.assert_close(together[i, j], newton_schulz(X[i, j], steps=6), **EXACT)


def test_length_does_not_matter_and_zero_stays_zero():
    X = random(6, 9)
    torch.testing.assert_close(newton_schulz(1e4 * X), newton_schulz(X), **EXACT)
    torch.testing.assert_close(newton_schulz(1e-5 * X), newton_schulz(X), **EXACT)
    assert newton_schulz(torch.zeros(3, 3)).abs().max() == 0


@pytest.mark.parametrize("together", [True, False])
def test_a_list_of_any_shapes(together):
    shapes = [(4, 6), (6, 4), (5,), (), (4, 3, 2), (4, 6), (2, 2, 1, 1)]
    tensors = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    results = orthogonalize(tensors, together)
    for before, after in zip(tensors, results):
        assert after.shape == before.shape
        if before.dim() < 2:
            assert after is before
        else:
            matrix = before.reshape(before.shape[0], -1)
            torch.testing.assert_close(after.reshape(matrix.shape), newton_schulz(matrix), **EXACT)


def test_bad_input_is_named():
    with pytest.raises(CourseError, match=r"shape \(4,\)"):
        newton_schulz(torch.ones(4))
    with pytest.raises(CourseError, match="Did you mean 'cubic'"):
        newton_schulz(torch.ones(2, 2), kind="cubik")
    with pytest.raises(CourseError, match="steps"):
        newton_schulz(torch.ones(2, 2), steps=-1)
