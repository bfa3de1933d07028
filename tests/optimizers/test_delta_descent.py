"""Delta gradient descent: the exact step, its fixed points, the batch, and the hooks that feed it."""

import copy
import gc

import pytest
import torch
from torch import nn

from nl_course.errors import CourseError
from nl_course.optimizers import DeltaGradientDescent
from nl_course.optimizers.delta_descent import exact_step, mean_step
from tests.optimizers import EXACT, random


def layer(outputs: int = 3, inputs: int = 5, seed: int = 0) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(random(outputs, inputs, seed=seed))
    return linear


def stepped(linear: nn.Linear, x: torch.Tensor, loss, **options) -> torch.Tensor:
    """The weight after one DGD step on loss(y), and the optimizer's hooks gone again."""
    optimizer = DeltaGradientDescent(linear.parameters(), linear, **options)
    loss(linear(x)).backward()
    optimizer.step()
    optimizer.remove_hooks()
    return linear.weight.detach().clone()


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm()


# -- one sample --
@pytest.mark.parametrize("norm", [0.5, 1.0, 2.0])
def test_dgd_is_the_argmin_of_its_inner_problem(norm):
    eta, W, x, v = 0.7, random(3, 5), norm * unit(random(5, seed=1)), random(3, seed=2)
    new = stepped(layer(), x, lambda y: (y - v).pow(3).sum(), lr=eta)
    u = -3 * (W @ x - v).square()
    trial = new.clone().requires_grad_()
    inner = 0.5 * (trial @ x - u).square().sum() + (trial - W).square().sum() / (2 * eta)
    assert torch.autograd.grad(inner, trial)[0].abs().max() < 1e-10  # strictly convex: this is the minimum
    rate = eta / (1 + eta * norm**2)
    torch.testing.assert_close(new, W - rate * torch.outer(W @ x - u, x), **EXACT)


def test_without_the_erase_it_is_gradient_descent():
    x, v = random(7, 5, seed=1), random(7, 3, seed=2)

    def loss(y):
        return (y - v).square().mean()

    W = layer().weight.detach()
    plain = layer()
    loss(plain(x)).backward()
    for options in ({"erase": "off"}, {"strength": 0.0}, {"strength": 0.0, "erase": "exact"}):
        new = stepped(layer(), x, loss, lr=0.3, **options)
        torch.testing.assert_close(new, W - 0.3 * plain.weight.grad, **EXACT)


def test_on_the_dot_loss_dgd_is_the_delta_rule():
    eta, W, k, v = 0.8, random(3, 5), unit(random(5, seed=1)), random(3, seed=2)
    new = stepped(layer(), k, lambda y: -y @ v, lr=eta)
    beta = eta / (1 + eta)
    torch.testing.assert_close(new, W @ (torch.eye(5) - beta * torch.outer(k, k)) + beta * torch.outer(v, k), **EXACT)


@pytest.mark.parametrize(
    ("loss", "share"),
    [
        (lambda y, v: 0.5 * (y - v).square().sum(), 1 / 2),  # erased twice
        (lambda y, v: (y - v).square().sum(), 2 / 3),
        (lambda y, v: -(y @ v), 1.0),  # the delta rule
    ],
    ids=["half square", "square", "dot"],
)
def test_what_dgd_settles_at(loss, share):
    linear, k, v = layer(), unit(random(5, seed=1)), random(3, seed=2)
    optimizer = DeltaGradientDescent(linear.parameters(), linear, lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        loss(linear(k), v).backward()
        optimizer.step()
    torch.testing.assert_close(linear(k).detach(), share * v, **EXACT)


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0, 3.0])
def test_a_weaker_erase_settles_nearer_to_the_target(strength):
    linear, k, v = layer(), unit(random(5, seed=1)), random(3, seed=2)
    optimizer = DeltaGradientDescent(linear.parameters(), linear, lr=0.3, strength=strength)
    for _ in range(200):
        optimizer.zero_grad()
        (0.5 * (linear(k) - v).square().sum()).backward()
        optimizer.step()
    torch.testing.assert_close(linear(k).detach(), v / (1 + strength), **EXACT)


# -- a batch --
@pytest.mark.parametrize("samples", [1, 2, 5, 40])  # fewer than the width, as many, more
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_batch_step_solves_its_own_equation(samples, reduction):
    W, x, v, eta = layer().weight.detach().clone(), random(samples, 5, seed=1), random(samples, 3, seed=2), 0.6
    new = stepped(layer(), x, lambda y: getattr(((y - v) ** 4).sum(1), reduction)(), lr=eta, reduction=reduction)
    U = -4 * (x @ W.T - v) ** 3  # (N, 3), each sample's own
    c = 1 / samples if reduction == "mean" else 1
    torch.testing.assert_close((new - W) / eta, c * (U.T @ x - new @ x.T @ x), **EXACT)


def test_the_mean_of_rank_one_erases_is_an_approximation_that_is_right_for_one_sample_only():
    W, g, x = random(3, 5), random(3, 5, seed=1), random(6, 5, seed=2)
    for rule in (exact_step, mean_step):
        error, k = g[:, 0], x[0]
        one = rule(W, torch.outer(error, k), x[:1], 0.5, 1.0)
        rate = 0.5 / (1 + 0.5 * k @ k)
        torch.testing.assert_close(one, W - rate * torch.outer(W @ k + error, k), **EXACT)
    for weight in (1 / 6, 1.0):
        assert (exact_step(W, g, x, 2.0, weight) - mean_step(W, g, x, 2.0, weight)).abs().max() > 1


@pytest.mark.parametrize("samples", [3, 9])
def test_with_equal_norms_the_mean_is_the_mean_of_the_one_sample_steps(samples):
    x = random(samples, 5, seed=2)
    x = 1.7 * x / x.norm(dim=1, keepdim=True)
    W, errors = random(3, 5), random(samples, 3, seed=3)
    steps = [exact_step(W, torch.outer(e, k), k[None], 0.5, 1.0) for e, k in zip(errors, x)]
    together = mean_step(W, errors.T @ x / samples, x, 0.5, 1 / samples)
    torch.testing.assert_close(together, torch.stack(steps).mean(0), **EXACT)


# -- inputs --
def test_micro_batches_are_one_batch():
    x, v = random(8, 5, seed=1), random(8, 3, seed=2)
    whole = stepped(layer(), x, lambda y: (y - v).square().mean())
    linear = layer()
    optimizer = DeltaGradientDescent(linear.parameters(), linear)
    for part, wanted in zip(x.chunk(4), v.chunk(4)):
        ((linear(part) - wanted).square().mean() / 4).backward()
    optimizer.step()
    torch.testing.assert_close(linear.weight.detach(), whole, **EXACT)


def test_only_passes_that_made_a_gradient_count():
    x, v = random(8, 5, seed=1), random(8, 3, seed=2)
    clean = stepped(layer(), x, lambda y: (y - v).square().mean())
    linear = layer()
    optimizer = DeltaGradientDescent(linear.parameters(), linear)
    with torch.no_grad():
        linear(random(50, 5))
    linear(random(50, 5))  # a loss nobody took the gradient of
    loss = (linear(x) - v).square().mean()
    optimizer.zero_grad()  # between the passes, as many write it
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(linear.weight.detach(), clean, **EXACT)
    assert optimizer.inputs.of(linear.weight) is None, "kept after the step"


def test_a_leading_axis_is_samples_and_a_shared_weight_sees_both_inputs():
    model = nn.ModuleList([layer(5, 5), layer(5, 5)])
    model[1].weight = model[0].weight
    optimizer = DeltaGradientDescent(model.parameters(), model)
    x = random(2, 4, 5, seed=1)
    model[1](model[0](x)).square().mean().backward()
    inputs = optimizer.inputs.of(model[0].weight)
    torch.testing.assert_close(
        torch.stack(sorted(inputs, key=lambda r: r.sum())),
        torch.stack(sorted([*x.flatten(0, 1), *(x @ model[0].weight.detach().T).flatten(0, 1)], key=lambda r: r.sum())),
    )


def test_what_has_no_layer_input_takes_plain_gradient_descent():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4), nn.Linear(4, 3)).double()
    before = copy.deepcopy(model)
    optimizer = DeltaGradientDescent(model.parameters(), model, lr=0.1)
    model(torch.arange(9)).square().mean().backward()
    optimizer.step()
    for (name, p), q in zip(model.named_parameters(), before.parameters()):
        plain = q - 0.1 * p.grad
        assert torch.allclose(p, plain, atol=1e-14) == (name != "2.weight"), name


def test_clipped_gradients_are_what_is_written():
    linear, x = layer(), random(8, 5, seed=1)
    optimizer = DeltaGradientDescent(linear.parameters(), linear, lr=0.2)
    linear(x).square().mean().backward()
    linear.weight.grad.zero_()
    W = linear.weight.detach().clone()
    optimizer.step()
    erased = W @ torch.linalg.inv(torch.eye(5, dtype=torch.float64) + 0.2 / 8 * x.T @ x)
    torch.testing.assert_close(linear.weight.detach(), erased, **EXACT)


def test_hooks_go_with_remove_and_with_the_optimizer():
    linear = layer()
    optimizer = DeltaGradientDescent(linear.parameters(), linear)
    assert len(linear._forward_hooks) == 1
    optimizer.remove_hooks()
    assert not linear._forward_hooks
    optimizer = DeltaGradientDescent(linear.parameters(), linear)
    del optimizer
    gc.collect()
    assert not linear._forward_hooks


def test_half_precision_is_solved_in_float32():
    x = random(3, 5, seed=1, dtype=torch.bfloat16)
    W, g = random(4, 5, dtype=torch.bfloat16), random(4, 5, seed=2, dtype=torch.bfloat16)
    for rows in (x[:2], x.repeat(4, 1)):
        new = exact_step(W, g, rows, 0.1, 1.0)
        assert new.dtype == torch.bfloat16
        wanted = exact_step(W.double(), g.double(), rows.double(), 0.1, 1.0)
        torch.testing.assert_close(new.double(), wanted, rtol=1e-2, atol=1e-2)


def test_a_model_that_has_none_of_the_weights_is_refused():
    with pytest.raises(CourseError, match=r"no nn\.Linear"):
        DeltaGradientDescent(layer().parameters(), layer())
    with pytest.raises(CourseError, match="needs the model"):
        DeltaGradientDescent(layer().parameters(), "model")
    with pytest.raises(CourseError, match="Did you mean 'exact'"):
        DeltaGradientDescent(layer().parameters(), layer(), erase="exat")
