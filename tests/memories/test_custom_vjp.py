"""Operations with a backward pass of their own."""

import pytest
import torch

from nl_course.memories.common.custom_vjp import CustomVJP, custom_vjp


def _operation(log: list[str]) -> CustomVJP:
    """(x, y) -> x y^2 and x + y, with a note of which way was taken."""

    def plain(x, y):
        log.append("plain")
        return x * y**2, x + y

    def forward(x, y, save):
        log.append("forward" if save else "forward only")
        square = y * y
        return (x * square, x + y), [square] if save else None

    def backward(inputs, saved, cotangents):
        log.append("backward")
        x, y = inputs
        (square,) = saved
        d_product, d_sum = cotangents
        return d_product * square + d_sum, d_product * 2 * x * y + d_sum

    return CustomVJP(plain, forward, backward)


def pair() -> list[torch.Tensor]:
    return [torch.tensor([0.7, -1.2], dtype=torch.float64, requires_grad=True) for _ in range(2)]


def test_it_is_differentiated_by_its_own_backward_pass():
    log = []
    x, y = pair()
    product, total = custom_vjp(_operation(log), x, y)
    torch.autograd.grad((product + total).sum(), (x, y))
    assert log == ["forward", "backward"]
    assert torch.autograd.gradcheck(lambda x, y: custom_vjp(_operation(log), x, y), (x, y))


def test_differentiated_further_it_is_the_plain_operation():
    log = []
    x, y = pair()
    (gradient,) = torch.autograd.grad(custom_vjp(_operation(log), x, y)[0].sum(), y, create_graph=True)
    torch.autograd.grad(gradient.sum(), y)
    assert log == ["forward", "plain"]
    assert torch.autograd.gradgradcheck(lambda x, y: custom_vjp(_operation(log), x, y), (x, y))


@pytest.mark.parametrize("which", [0, 1])
def test_only_what_is_wanted_is_differentiated(which):
    inputs = [u.detach() for u in pair()]
    inputs[which].requires_grad_()
    expected = torch.autograd.grad(_operation([]).plain(*inputs)[0].sum(), inputs[which])[0]
    for graph in (False, True):
        product, _ = custom_vjp(_operation([]), *inputs)
        gradient = torch.autograd.grad(product.sum(), inputs[which], create_graph=graph)[0]
        torch.testing.assert_close(gradient, expected)


def test_without_autograd_nothing_is_kept():
    log = []
    x, y = pair()
    with torch.no_grad():
        custom_vjp(_operation(log), x, y)
    custom_vjp(_operation(log), x.detach(), y.detach())
    assert log == ["forward only", "forward only"]


def test_transformed_it_is_the_plain_operation():
    log = []
    x, y = (u.detach() for u in pair())
    gradient = torch.func.grad(lambda y: custom_vjp(_operation(log), x, y)[0].sum())(y)
    torch.testing.assert_close(gradient, 2 * x * y)
    assert log == ["plain"]


def test_what_one_input_owes_to_another_is_counted_once():
    """y is given to both operations, and the first one's result to the second: the second must not differentiate the
    first as well, neither twice over nor at all."""
    log = []
    x, y = pair()

    def twice(x, y):
        return custom_vjp(_operation(log), custom_vjp(_operation(log), x, y)[0], y)[0]  # x y^4

    (gradient,) = torch.autograd.grad(twice(x, y).sum(), y, create_graph=True)
    torch.testing.assert_close(gradient, 4 * x * y**3)
    assert log.count("plain") == 2
    assert torch.autograd.gradgradcheck(twice, (x, y))
