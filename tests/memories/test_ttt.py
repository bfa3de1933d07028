"""TTT-Linear and TTT-MLP held to their definition: gradients, the dual form, splits, causality, sizes, equivalences."""

import pytest
import torch
from torch.autograd.functional import hessian

from nl_course.memories import TTT, Trace, TTTConfig
from nl_course.memories.common.inner_model import ACTIVATIONS, InnerModel, Norm, layer_norm, ln_l2_gradient
from nl_course.memories.common.weights import Weights
from nl_course.memories.ttt import dual, reference
from tests.memories.ttt_tools import BACKBONES, CLOSE, KINDS, bare, draw, gradients, layer, learn, same_gradients, twin

PATHS = ("reference", "chunked")


def test_the_fused_gradient_is_autograds():
    z, target = draw(2, 3, 5, 8).requires_grad_(), draw(2, 3, 5, 8, seed=5)
    norm = Norm(1 + draw(3, 1, 8, seed=6), draw(3, 1, 8, seed=7))
    loss = (layer_norm(z, norm) - target).square().sum() / 2
    torch.testing.assert_close(ln_l2_gradient(z, target, norm), torch.autograd.grad(loss, z)[0], **CLOSE)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_slopes_are_autograds(name):
    activation = ACTIVATIONS[name]
    x = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(activation.value(x).sum(), x, create_graph=True)
    torch.testing.assert_close(activation.slope(x), slope, **CLOSE)
    torch.testing.assert_close(activation.value_slope(x), (activation.value(x), slope), **CLOSE)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    x, slope = x.detach(), slope.detach()
    torch.testing.assert_close(activation.pull(2 * x, x), 2 * x * slope, **CLOSE)
    torch.testing.assert_close(activation.value_slope_bend(x), (activation.value(x), slope, bend), **CLOSE)
    theirs = torch.nn.functional.gelu(x, approximate="tanh") if name == "gelu" else torch.nn.functional.silu(x)
    torch.testing.assert_close(activation.value(x), theirs, **CLOSE)


def test_zero_weights_make_the_gradient_a_thousand_times_larger():
    target, norm = draw(1, 1, 1, 8), Norm(torch.ones(1, 1, 8), torch.zeros(1, 1, 8))
    error = ln_l2_gradient(torch.zeros(1, 1, 1, 8, dtype=torch.float64), target, norm)
    torch.testing.assert_close(error, 1000 * (target.mean(-1, keepdim=True) - target), **CLOSE)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("form", [reference, dual])
def test_online_is_a_plain_loop_of_gradient_steps(layers, form):
    inner = InnerModel(layers, expansion=2)
    q, k, v = (draw(1, 1, 6, 4, seed=s) for s in range(3))
    rate, factor = draw(1, 1, 6, seed=4).sigmoid(), torch.full((1,), 0.8, dtype=torch.float64)
    norm = Norm(1 + 0.3 * draw(1, 1, 4, seed=5), 0.3 * draw(1, 1, 4, seed=6))
    weights = Weights({n: draw(1, 1, *s, seed=i) for i, (n, s) in enumerate(inner.shapes(4).items())})

    by_hand, expected = {n: w[0, 0].clone() for n, w in weights.items()}, []
    for t in range(6):
        at = {n: w.clone().requires_grad_() for n, w in by_hand.items()}
        loss = 0.5 * ((inner.read(at, k[0, 0, t : t + 1], Norm(norm.gain[0], norm.shift[0])) - v[0, 0, t]) ** 2).sum()
        for name, g in zip(at, torch.autograd.grad(loss, list(at.values()))):
            by_hand[name] = by_hand[name] - 0.8 * rate[0, 0, t] * g
        expected.append(inner.read(by_hand, q[0, 0, t : t + 1], Norm(norm.gain[0], norm.shift[0])))

    z, after, grad_accum = form.learn(inner, norm, weights, weights.map(torch.zeros_like), q, k, v, rate, factor)
    torch.testing.assert_close(z[0, 0], torch.cat(expected), **CLOSE)
    for name, w in by_hand.items():
        torch.testing.assert_close(after[name][0, 0], w, **CLOSE)
        assert not grad_accum[name].any(), "a mini-batch of one token is never open"


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_with_mini_batch_one_is_online(kind):
    memory, x = layer(kind, mini_batch=1, backbone="transformer", rope_theta=None, base_rate=2.0), draw(1, 5, 8)
    norm, inner, f = memory.norm, memory.inner, 4
    weights = {name: w[None] for name, w in memory.start.items()}
    answers = []
    for t in range(5):
        q, k, v = (p(x[:, t]).view(1, 2, 1, f) for p in (memory.query, memory.key, memory.value))
        rate = (
            2.0 / f * torch.sigmoid(memory.rate(x[:, t])).view(1, 2, 1, 1) * (1 + memory.position_offset).clamp_min(0)
        )
        loss = inner.inner_loss(weights, k, v, norm).sum()
        weights = {n: w - rate * g for (n, w), g in zip(weights.items(), torch.autograd.grad(loss, weights.values()))}
        answers.append(inner.read(weights, q, norm).reshape(1, 8))
    expected = memory.output(memory.post_norm(torch.stack(answers, dim=1)))
    torch.testing.assert_close(memory(x)[0], expected, **CLOSE)


@pytest.mark.parametrize("position_factor", ["learned", "sum"])
@pytest.mark.parametrize("size", [1, 2, 3, 16, 19])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_dual_form_is_the_primal(kind, backbone, size, position_factor):
    memory = layer(kind, mini_batch=size, backbone=backbone, position_factor=position_factor)
    other, x = twin(memory, "reference"), draw(2, 19, 8)
    y, state = memory(x)
    expected, expected_state = other(x)
    torch.testing.assert_close(y, expected, **CLOSE)
    for name in state.anchor:
        torch.testing.assert_close(state.anchor[name], expected_state.anchor[name], **CLOSE)
        torch.testing.assert_close(state.grad_accum[name], expected_state.grad_accum[name], **CLOSE)
    same_gradients(memory, other, x)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind, path):
    memory = layer(kind, path, width=4, heads=1, mini_batch=2)
    names = [name for name, _ in memory.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(memory, dict(zip(names, values)), (x,))[0]

    values = [p.detach().clone().requires_grad_() for p in memory.parameters()]
    assert torch.autograd.gradcheck(run, (draw(1, 5, 4).requires_grad_(), *values))


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_differentiated_twice(kind):
    """What stands above a learning level is differentiated twice."""
    memory = layer(kind, width=4, heads=1, mini_batch=2)

    def run(path):
        other = twin(memory, path)
        return hessian(lambda x: other(x)[0].square().sum(), draw(1, 5, 4))

    torch.testing.assert_close(run("chunked"), run("reference"), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_any_split(kind, path):
    memory, x = layer(kind, path, mini_batch=4), draw(2, 21, 8)
    whole, state = memory(x)
    for pieces in ([1] * 21, [2, 3, 5, 7, 4], [4, 4, 13], [17, 1, 1, 1, 1]):  # the last: prefill, then decode
        outputs, carried = [], None
        for piece in x.split(pieces, dim=1):
            y, carried = memory(piece, carried)
            outputs.append(y)
        torch.testing.assert_close(torch.cat(outputs, dim=1), whole, **CLOSE)
        for name, tensor in state.tensors().items():
            torch.testing.assert_close(carried.tensors()[name], tensor, **CLOSE)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("kind", KINDS)
def test_causality_is_exact(kind, backbone):
    memory, x = layer(kind, mini_batch=4, backbone=backbone), draw(2, 9, 8).requires_grad_()
    y, _ = memory(x)
    for t in range(9):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        assert gradient[0, t + 1 :].abs().sum() == 0
        assert gradient[1].abs().max() == 0
        assert gradient[0, : t + 1].abs().amax(-1).min() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_second_order_is_alive(kind):
    def key_gradient(stop):
        memory = layer(kind, mini_batch=4, backbone="transformer", stop_gradient=stop)
        x = draw(1, 12, 8)
        y, _ = memory(x)
        return torch.autograd.grad(y[0, -1].sum(), memory.key.weight, allow_unused=True)[0]

    exact = key_gradient("none")
    assert exact.abs().max() > 1e-6
    for stop in ("first-order", "write"):
        stopped = key_gradient(stop)
        assert stopped is None or stopped.abs().max() == 0

    # An early token's key reaches the last output through later gradients too, not only through its own write.
    def early_key(detach):
        memory = bare(kind, zero=False, norm=True, residual=True, mini_batch=2)
        q, k, v = (draw(1, 2, 8, 4, seed=s) for s in range(3))
        rate, early = torch.full((1, 2, 8), 0.3, dtype=torch.float64), k[:, :, :1].clone().requires_grad_()
        keys = torch.cat([early, k[:, :, 1:]], dim=2)
        z, state = learn(memory, q[:, :, :2], keys[:, :, :2], v[:, :, :2], rate[:, :, :2])
        anchor = dict(state.anchor)
        for start in range(2, 8, 2):
            at = slice(start, start + 2)
            learning = {n: w.detach() for n, w in anchor.items()} if detach else anchor
            sides = memory.inner.key_side(learning, keys[:, :, at], v[:, :, at], memory.norm)
            for i, (a, e) in enumerate(sides, 1):
                anchor[f"W{i}"] = anchor[f"W{i}"] - 0.3 * a.mT @ e
                anchor[f"b{i}"] = anchor[f"b{i}"] - 0.3 * e.sum(-2, keepdim=True)
        z = memory.inner.read(anchor, q[:, :, -1:], memory.norm)
        return torch.autograd.grad(z.sum(), early)[0]

    assert (early_key(False) - early_key(True)).abs().max() > 1e-6


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("kind", "numbers"), [("linear", lambda d, f: d * f + d), ("mlp", lambda d, f: 8 * d * f + 5 * d)]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_state_has_the_size_of_the_formula(kind, numbers, backbone, dtype):
    d, f, size = 12, 4, torch.finfo(dtype).bits // 8
    memory = TTT(TTTConfig(d, 3, kind=kind, backbone=backbone, mini_batch=4)).to(dtype)
    expected = 2 * size * numbers(d, f) + (2 * 3 * d * size if backbone == "mamba" else 0)
    for tokens in (0, 1, 4, 50):
        _, state = memory(draw(2, tokens, d).to(dtype))
        assert state.nbytes == memory.state_bytes(tokens, 2) == 2 * expected


def test_batch_descent_is_linear_attention():
    memory = bare(mini_batch=12)
    q, k, v = (draw(2, 2, 12, 4, seed=s) for s in range(3))
    z, _ = learn(memory, q, k, v, torch.ones(2, 2, 12, dtype=torch.float64))
    # Biases start at zero and are written too: each earlier value counts once more, whatever its key.
    torch.testing.assert_close(z, (q @ k.mT + 1).tril() @ v, **CLOSE)
    memory = bare(mini_batch=12, bias=False)
    z, _ = learn(memory, q, k, v, torch.ones(2, 2, 12, dtype=torch.float64))
    torch.testing.assert_close(z, (q @ k.mT).tril() @ v, **CLOSE)


def test_with_the_residual_it_stores_differences():
    memory = bare(mini_batch=12, bias=False, residual=True)
    q, k, v = (draw(2, 2, 12, 4, seed=s) for s in range(3))
    z, _ = learn(memory, q, k, v, torch.ones(2, 2, 12, dtype=torch.float64))
    torch.testing.assert_close(z, q + (q @ k.mT).tril() @ (v - k), **CLOSE)


def test_online_descent_is_the_delta_rule():
    memory = bare(mini_batch=1, bias=False)
    q, k, v = (draw(2, 2, 12, 4, seed=s) for s in range(3))
    beta = draw(2, 2, 12, seed=4).sigmoid()
    z, _ = learn(memory, q, k, v, beta)
    state = torch.zeros(2, 2, 4, 4, dtype=torch.float64)
    for t in range(12):
        key, value = k[:, :, t : t + 1], v[:, :, t : t + 1]
        state = state + beta[:, :, t, None, None] * key.mT @ (value - key @ state)
        torch.testing.assert_close(z[:, :, t : t + 1], q[:, :, t : t + 1] @ state, **CLOSE)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_step_nothing_is_learnt(kind, path):
    memory, x = layer(kind, path, mini_batch=4, base_rate=0.0, backbone="transformer", rope_theta=None), draw(1, 11, 8)
    y, state = memory(x)
    q = memory.query(x).view(1, 11, 2, 4).transpose(1, 2)
    z = memory.inner.read({name: w[None] for name, w in memory.start.items()}, q, memory.norm)
    torch.testing.assert_close(y, memory.output(memory.post_norm(z.transpose(1, 2).reshape(1, 11, 8))), **CLOSE)
    for name, weight in memory.weights(state).items():
        torch.testing.assert_close(weight[0], memory.start[name], **CLOSE)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_running_mean_stays_and_the_sum_goes_on(kind, path):
    def moves(position_factor):
        memory = layer(kind, path, mini_batch=5, backbone="transformer", rope_theta=None)
        torch.nn.init.zeros_(memory.position_offset)
        if position_factor == "sum":
            del memory.position_offset
            memory = twin(memory, path, position_factor="sum")
        token, state, distances = draw(1, 1, 8), None, []
        for _ in range(5):
            _, state = memory(token, state)
            distances.append(memory.weights(state)["W1"][0] - memory.start["W1"])
        return distances

    mean, total = moves("learned"), moves("sum")
    for i in range(5):
        torch.testing.assert_close(mean[i], mean[0], **CLOSE)
        torch.testing.assert_close(total[i], (i + 1) * mean[0], **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_write_lowers_the_loss_on_its_token(kind):
    memory, trace = layer(kind, mini_batch=1, base_rate=0.01), Trace()
    memory(draw(2, 40, 8), None, trace)
    assert (trace["loss_after"] < trace["loss_before"]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_training_makes_the_learned_weights_better_than_the_start(kind):
    """A few outer steps on predicting a value that its key has been given before."""
    memory = layer(kind, mini_batch=4, width=8, heads=1, spread=0.0, base_rate=1.0, backbone="transformer")
    optimizer = torch.optim.Adam(memory.parameters(), lr=0.01)
    for step in range(40):
        x = draw(4, 4, 8, seed=10 + step).repeat(1, 4, 1)
        loss = (memory(x)[0] - x.roll(-1, dims=1))[:, :-1].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trace = Trace()
    memory(draw(4, 4, 8, seed=9).repeat(1, 4, 1), None, trace)
    assert trace["loss_after"].mean() < trace["loss_start"].mean()


def test_a_gradient_that_no_one_needs_costs_nothing():
    memory = layer()
    with torch.no_grad():
        y, state = memory(draw(1, 20, 8))
    assert not y.requires_grad and not any(t.requires_grad for t in state.tensors().values())
    assert all(g.isfinite().all() for g in gradients(memory, draw(1, 20, 8)))
