"""Operations with a backward pass of their own."""

import pytest
import torch

from nl_course.memories.common.custom_vjp import Operation, raw


def _operation(log: list[str]) -> Operation:
    """(x, y) -> x y^2 and x + y, with a note of which way was taken."""

    def plain(x, y):
        log.append("plain")
        return x * y**2, x + y

    def forward(x, y, keep):
        log.append("forward" if keep else "forward only")
        square = y * y
        return (x * square, x + y), [square] if keep else None

    def backward(given, kept, cotangents):
        log.append("backward")
        (x, y), (square,), (d_product, d_sum) = given, kept, cotangents
        return d_product * square + d_sum, d_product * 2 * x * y + d_sum

    return Operation(plain, forward, backward)


def pair() -> list[torch.Tensor]:
    return [torch.tensor([0.7, -1.2], dtype=torch.float64, requires_grad=True) for _ in range(2)]


def test_it_is_differentiated_by_its_own_backward_pass():
    log, (x, y) = [], pair()
    product, total = raw(_operation(log), x, y)
    torch.autograd.grad((product + total).sum(), (x, y))
    assert log == ["forward", "backward"]
    assert torch.autograd.gradcheck(lambda x, y: raw(_operation(log), x, y), (x, y))


def test_differentiated_further_it_is_the_plain_operation():
    log, (x, y) = [], pair()
    (gradient,) = torch.autograd.grad(raw(_operation(log), x, y)[0].sum(), y, create_graph=True)
    torch.autograd.grad(gradient.sum(), y)
    assert log == ["forward", "plain"]
    assert torch.autograd.gradgradcheck(lambda x, y: raw(_operation(log), x, y), (x, y))


@pytest.mark.parametrize("which", [0, 1])
def test_only_what_is_wanted_is_differentiated(which):
    given = [u.detach() for u in pair()]
    given[which].requires_grad_()
    expected = torch.autograd.grad(_operation([]).plain(*given)[0].sum(), given[which])[0]
    for graph in (False, True):
        product, _ = raw(_operation([]), *given)
        found = torch.autograd.grad(product.sum(), given[which], create_graph=graph)[0]
        torch.testing.assert_close(found, expected)


def test_without_autograd_nothing_is_kept():
    log, (x, y) = [], pair()
    with torch.no_grad():
        raw(_operation(log), x, y)
    raw(_operation(log), x.detach(), y.detach())
    assert log == ["forward only", "forward only"]


def test_transformed_it_is_the_plain_operation():
    log, (x, y) = [], [u.detach() for u in pair()]
    found = torch.func.grad(lambda y: raw(_operation(log), x, y)[0].sum())(y)
    torch.testing.assert_close(found, 2 * x * y)
    assert log == ["plain"]


def test_what_one_given_tensor_owes_to_another_is_counted_once():
    """y is given to both operations, and the first one's result to the second: the second must not differentiate the
    first as well, neither twice over nor at all."""
    log, (x, y) = [], pair()

    def twice(x, y):
        return raw(_operation(log), raw(_operation(log), x, y)[0], y)[0]  # x y^4

    (gradient,) = torch.autograd.grad(twice(x, y).sum(), y, create_graph=True)
    torch.testing.assert_close(gradient, 4 * x * y**3)
    assert log.count("plain") == 2
    assert torch.autograd.gradgradcheck(twice, (x, y))
