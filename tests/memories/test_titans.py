"""Titans' neural memory held to its definition, the equations written out in titans_tools.py. What concerns the size of
a chunk is in test_titans_chunks.py."""

import pytest
import torch

from nl_course.memories import Titans, TitansConfig
from nl_course.memories.ablations.pooled import PooledTitans
from nl_course.memories.common.weights import Weights
from nl_course.memories.linear.delta import gated_delta_reference
from nl_course.memories.titans.chunk import Gates
from nl_course.memories.titans.reference import reference
from tests.memories.titans_tools import (
    bare,
    by_hand,
    constant_gates,
    layer,
    learn,
    network,
    some_gates,
    surprise,
    twin,
)
from tests.memories.ttt_tools import CLOSE, GRADIENTS, draw, gradients, same_gradients
from tests.memories.ttt_tools import bare as bare_ttt
from tests.memories.ttt_tools import learn as learn_ttt

PATHS = ("reference", "chunked")
PARTS = (
    {},
    {"momentum": False},
    {"retention": False},
    {"momentum": False, "retention": False},
    {"norm": True},
    {"residual": True, "activation": "gelu"},
    {"bias": True},
    {"norm": True, "residual": True, "bias": True, "momentum": False},
    {"conv": 0, "persistent": 0},
)


def names(parts: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in parts.items()) or "default"


def assert_is_by_hand(memory: Titans, x: torch.Tensor) -> None:
    """Outputs, the weights and momentum at the end, and the gradient of everything."""
    y, state = memory(x)
    expected, ends = by_hand(memory, x)
    torch.testing.assert_close(y, expected, **CLOSE)
    for row, heads in enumerate(ends):
        for h, (M, S) in enumerate(heads):
            for name in M:
                torch.testing.assert_close(state.neural.memory[name][row, h], M[name], **CLOSE)
                if memory.config.momentum:
                    torch.testing.assert_close(state.neural.momentum[name][row, h], S[name], **CLOSE)
    wanted, direction = [x, *memory.parameters()], draw(*y.shape, seed=3)
    ours, theirs = (torch.autograd.grad((out * direction).sum(), wanted) for out in (y, expected))
    for name, a, b in zip(["x", *(n for n, _ in memory.named_parameters())], ours, theirs):
        torch.testing.assert_close(a, b, **GRADIENTS, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_online_is_a_plain_loop_of_gradient_steps(layers, path):
    assert_is_by_hand(layer(path, layers=layers, chunk=1), draw(2, 7, 8).requires_grad_())


@pytest.mark.parametrize("size", [1, 2, 3, 16, 19])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_chunked_form_is_the_loop_over_tokens(layers, size):
    """19 tokens after 3 persistent ones: the last chunk is open for most sizes."""
    memory, x = layer(layers=layers, chunk=size), draw(2, 19, 8)
    same(memory, twin(memory, "reference"), x)


@pytest.mark.parametrize("parts", PARTS, ids=names)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_with_and_without_every_part(layers, parts):
    memory, x = layer(layers=layers, chunk=3, **parts), draw(2, 11, 8)
    same(memory, twin(memory, "reference"), x)


def same(memory: Titans, other: Titans, x: torch.Tensor) -> None:
    (y, state), (expected, expected_state) = memory(x), other(x)
    torch.testing.assert_close(y, expected, **CLOSE)
    for name, tensor in expected_state.tensors().items():
        torch.testing.assert_close(state.tensors()[name], tensor, **CLOSE)
    same_gradients(memory, other, x)
    reached = gradients(memory, x)
    for name, gradient in zip(["x", *(n for n, _ in memory.named_parameters())], reached):
        assert gradient.abs().max() > 0, f"{name} is reached by no gradient, so nothing was compared"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [Titans, PooledTitans])
def test_gradients_are_finite_differences(kind, path):
    memory = layer(path, width=4, heads=1, kind=kind, chunk=2, persistent=1, conv=2, bias=True)
    names = [name for name, _ in memory.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(memory, dict(zip(names, values)), (x,))[0]

    values = [p.detach().clone().requires_grad_() for p in memory.parameters()]
    assert torch.autograd.gradcheck(run, (draw(1, 4, 4).requires_grad_(), *values))


@pytest.mark.parametrize("path", PATHS)
def test_causality_is_exact(path):
    memory, x = layer(path), draw(2, 10, 8).requires_grad_()
    y, _ = memory(x)
    for t in range(10):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        assert gradient[0, t + 1 :].abs().sum() == 0
        assert gradient[1].abs().max() == 0
        assert gradient[0, : t + 1].abs().amax(-1).min() > 0


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_second_order_is_alive(layers):
    """An early key reaches the last answer through its own write, and through the gradients of later chunks."""
    memory = bare(layers=layers, chunk=2)
    q, k, v = (draw(1, 2, 8, 4, seed=s) for s in range(3))
    gates = some_gates(1, 2, 8)

    def early_key(detach: bool) -> torch.Tensor:
        key = k.clone().requires_grad_()
        state = memory.neural.init_state(1)
        M, S = state.memory, state.momentum
        for at in range(0, 8, 2):
            rows, own = slice(at, at + 2), gates.time_slice(at, at + 2)
            anchor = M.map(torch.Tensor.detach) if detach else M
            part = [u[:, :, rows] for u in (q, key, v)]
            # Position 1 of a chunk of 3: the two tokens are taken at the anchor that is given.
            y, M, S, _ = reference(memory.neural.inner, None, M, S, anchor, *part, *own.plain(), position=1, chunk=3)
        return torch.autograd.grad(y[:, :, -1].sum(), key)[0][:, :, 0]

    assert early_key(False).abs().max() > 1e-6
    assert (early_key(False) - early_key(True)).abs().max() > 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_state_has_the_size_of_the_formula(layers, dtype):
    d, heads, r, f, bytes_each = 12, 3, 4, 4, torch.finfo(dtype).bits // 8
    numbers = heads * (f * f if layers == 1 else 2 * r * f * f + (layers - 2) * r * r * f * f)
    conv_states = 3 * 3 * d
    for options, copies in (({"chunk": 1}, 2), ({"chunk": 4}, 3), ({"chunk": 4, "momentum": False}, 2)):
        memory = Titans(TitansConfig(d, heads, layers=layers, **options)).to(dtype)
        for tokens in (0, 1, 4, 50):
            _, state = memory(draw(2, tokens, d).to(dtype))
            expected = 2 * bytes_each * (copies * numbers + conv_states)
            assert state.nbytes == memory.state_bytes(tokens, 2) == expected


def test_without_momentum_and_forgetting_it_is_the_delta_rule():
    for path in PATHS:
        memory = bare(path=path, momentum=False, retention=False)
        q, k, v = (draw(2, 2, 9, 4, seed=s) for s in range(3))
        beta = draw(2, 2, 9, seed=4).sigmoid()
        y, state = learn(memory, q, k, v, Gates(beta, None, None))
        S = memory.neural.start["W1"].expand(2, -1, -1, -1)
        for t in range(9):
            key, value = k[:, :, t : t + 1], v[:, :, t : t + 1]
            S = S + beta[:, :, t, None, None] * key.mT @ (value - key @ S)
            torch.testing.assert_close(y[:, :, t : t + 1], q[:, :, t : t + 1] @ S, **CLOSE)
        torch.testing.assert_close(state.memory["W1"], S, **CLOSE)


def test_as_many_pairs_as_features_are_recalled_exactly():
    memory = bare(zero=True, width=12, momentum=False, retention=False)
    k, v = torch.linalg.qr(draw(2, 2, 6, 6, seed=1)).Q, draw(2, 2, 6, 6, seed=2)
    _, state = learn(memory, k, k, v, constant_gates((2, 2, 6), 1.0))
    torch.testing.assert_close(memory.neural.read(state.memory, k), v, **CLOSE)
    _, half = learn(memory, k, k, v, constant_gates((2, 2, 6), 0.5))
    torch.testing.assert_close(memory.neural.read(half.memory, k), v / 2, **CLOSE)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_without_momentum_and_forgetting_it_is_ttts_inner_loop(kind, norm):
    ttt = bare_ttt(kind, zero=False, norm=norm, mini_batch=4)
    options = dict(layers=1 if kind == "linear" else 2, expansion=4, activation="gelu", bias=True, norm=norm)
    memory = bare(chunk=4, momentum=False, retention=False, **options)
    with torch.no_grad():
        for name, weight in memory.neural.start.items():
            weight.copy_(ttt.start[name])
        if norm:
            memory.neural.gain.copy_(ttt.norm.gain)
            memory.neural.shift.copy_(ttt.norm.shift)
    q, k, v = (draw(2, 2, 11, 4, seed=s) for s in range(3))
    rate = 0.3 * draw(2, 2, 11, seed=4).sigmoid()
    z, theirs = learn_ttt(ttt, q, k, v, rate)
    y, state = learn(memory, q, k, v, Gates(rate, None, None))
    torch.testing.assert_close(y, z, **CLOSE)
    for name, weight in ttt.weights(theirs).items():
        torch.testing.assert_close(state.memory[name], weight, **CLOSE)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layers", [1, 2])
def test_the_gates_at_their_ends(layers, path):
    memory = bare(path=path, layers=layers, chunk=3)
    q, k, v = (draw(1, 2, 7, 4, seed=s) for s in range(3))
    gates = some_gates(1, 2, 7)
    _, moving = learn(memory, q, k, v, gates)  # some momentum to begin with; 7 tokens, so a chunk is open
    first = {n: (moving.memory[n], moving.momentum[n]) for n in moving.memory}

    # theta = 0: what is there decays, and what moves keeps moving.
    _, after = learn(memory, q, k, v, gates._replace(step=0 * gates.step), moving)
    for name, (M, S) in first.items():
        for t in range(7):
            S = gates.log_momentum[:, :, t, None, None].exp() * S
            M = gates.log_retention[:, :, t, None, None].exp() * M + S
        torch.testing.assert_close(after.memory[name], M, **CLOSE)
        torch.testing.assert_close(after.momentum[name], S, **CLOSE)

    # alpha = 1: nothing is kept but the momentum.
    never = torch.full_like(gates.step, -torch.inf)
    _, after = learn(memory, q, k, v, gates._replace(log_retention=never), moving)
    for name in first:
        torch.testing.assert_close(after.memory[name], after.momentum[name], **CLOSE)

    # eta = 0: the past is forgotten at once, and S is the last token's step alone.
    y, after = learn(memory, q, k, v, gates._replace(log_momentum=never), moving)
    none = {"momentum": Weights({n: torch.zeros_like(S) for n, (_, S) in first.items()})}
    still = type(moving)(**{**moving.__dict__, **none})
    expected, _ = learn(memory, q, k, v, gates._replace(log_momentum=never), still)
    torch.testing.assert_close(y, expected, **CLOSE)
    config, anchor = memory.config, after.anchor
    for h in range(2):  # token 13 of 14 is the second of its chunk: it learns at the anchor that is still carried
        u = surprise(config, {n: w[0, h] for n, w in anchor.items()}, k[0, h, -1], v[0, h, -1], None, None)
        for name in u:
            torch.testing.assert_close(after.momentum[name][0, h], -gates.step[0, h, -1] * u[name], **CLOSE)


def test_forgetting_after_the_gradient_is_not_gated_deltanet():
    memory = bare(momentum=False)
    q, k, v = (draw(2, 2, 9, 4, seed=s) for s in range(3))
    k = k / k.norm(dim=-1, keepdim=True)
    gates = some_gates(2, 2, 9, largest=1.0)._replace(log_momentum=None)
    y, state = learn(memory, q, k, v, gates)
    start = memory.neural.start["W1"].expand(2, -1, -1, -1)
    M, eye = start, torch.eye(4, dtype=torch.float64)
    for t in range(9):
        key, value = k[:, :, t : t + 1], v[:, :, t : t + 1]
        theta, keep = gates.step[:, :, t, None, None], gates.log_retention[:, :, t, None, None].exp()
        M = (keep * eye - theta * key.mT @ key) @ M + theta * key.mT @ value
        torch.testing.assert_close(y[:, :, t : t + 1], q[:, :, t : t + 1] @ M, **CLOSE)
    torch.testing.assert_close(state.memory["W1"], M, **CLOSE)

    gated, _ = gated_delta_reference(q, k, v, gates.step, gates.log_retention.exp(), start)
    assert (y - gated).abs().max() > 1e-2
    no_forgetting = gates._replace(log_retention=torch.zeros_like(gates.step))
    equal, _ = gated_delta_reference(q, k, v, no_forgetting.step, no_forgetting.log_retention.exp(), start)
    torch.testing.assert_close(learn(memory, q, k, v, no_forgetting)[0], equal, **CLOSE)


@pytest.mark.parametrize("parts", PARTS, ids=names)
@pytest.mark.parametrize("size", [2, 3, 16])
def test_chunks_are_a_loop_with_anchored_gradients(size, parts):
    assert_is_by_hand(layer(layers=2, chunk=size, **parts), draw(2, 8, 8).requires_grad_())


def scan(factors: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """All prefixes of x_t = a_t x_{t-1} + v_t by halves, with (a, x) o (a', x') = (a a', a' x + x'): time is axis 0."""
    reach = 1
    while reach < len(values):
        earlier, later = values[:-reach], values[reach:]
        grown = factors[reach:] * earlier + later
        factors = torch.cat([factors[:reach], factors[reach:] * factors[:-reach]])
        values = torch.cat([values[:reach], grown])
        reach *= 2
    return values


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_chunks_are_two_associative_scans(layers, size, path):
    memory, tokens = bare(path=path, layers=layers, chunk=size), 12
    q, k, v = (draw(1, 2, tokens, 4, seed=s) for s in range(3))
    gates = some_gates(1, 2, tokens)
    y, state = learn(memory, q, k, v, gates)
    config = memory.config
    for h in range(2):
        theta, eta, keep = gates.step[0, h], gates.log_momentum[0, h].exp(), gates.log_retention[0, h].exp()
        M = {n: w[h].detach() for n, w in memory.neural.start.items()}
        S = {n: torch.zeros_like(w) for n, w in M.items()}
        for start in range(0, tokens, size):
            rows = range(start, min(start + size, tokens))
            u = [surprise(config, M, k[0, h, t], v[0, h, t], None, None) for t in rows]
            at = slice(rows.start, rows.stop)
            moved, weights = {}, {}
            for n in M:
                steps = torch.stack([-theta[t] * u[i][n] for i, t in enumerate(rows)])
                first = torch.cat([S[n][None], steps])
                moved[n] = scan(torch.cat([eta.new_ones(1), eta[at]])[:, None, None], first)[1:]
                first = torch.cat([M[n][None], moved[n]])
                weights[n] = scan(torch.cat([keep.new_ones(1), keep[at]])[:, None, None], first)[1:]
            for i, t in enumerate(rows):
                read = network(config, {n: w[i] for n, w in weights.items()}, q[0, h, t], None, None)
                torch.testing.assert_close(y[0, h, t], read, **CLOSE)
            M, S = ({n: w[-1] for n, w in stack.items()} for stack in (weights, moved))
        for n in M:
            torch.testing.assert_close(state.memory[n][0, h], M[n], **CLOSE)
            torch.testing.assert_close(state.momentum[n][0, h], S[n], **CLOSE)


@pytest.mark.parametrize("logit", [30.0, 300.0, 1e4])
@pytest.mark.parametrize("past", [-1, 1])
@pytest.mark.parametrize("forget", [-1, 1])
def test_gates_near_0_and_1_stay_numbers_in_float32(forget, past, logit):
    """Also where the sign changes from token to token: a product of ratios would be 0 / 0 there. The step is small,
    since momentum that never ends makes any memory run away."""
    for spread in (0.0, logit):
        exact = layer(chunk=16, layers=2, spread=0.1, max_step=0.001)
        with torch.no_grad():
            for gate, sign in ((exact.neural.past, past), (exact.neural.forget, forget)):
                gate.bias.fill_(0.0 if spread else sign * logit)
                gate.weight.copy_(sign * spread * draw(*gate.weight.shape, seed=8))
        memory = twin(exact).float()
        x = draw(1, 70, 8)
        y, state = memory(x.float())
        expected, _ = twin(exact, "reference")(x)
        torch.testing.assert_close(y, expected.float(), rtol=1e-3, atol=1e-3)
        assert all(t.isfinite().all() for t in state.tensors().values())
        ours = torch.autograd.grad(y.square().sum(), list(memory.parameters()))
        assert all(g.isfinite().all() for g in ours)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [1, 3, 16])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_single_write_goes_on_by_the_products_of_momentum(layers, size, path):
    memory, tokens, written_at = bare(path=path, layers=layers, chunk=size), 10, 3
    q, k, v = (draw(1, 2, tokens, 4, seed=s) for s in range(3))
    step = torch.zeros(1, 2, tokens, dtype=torch.float64)
    step[:, :, written_at] = 0.4
    eta = draw(1, 2, tokens, seed=5).sigmoid()
    gates = Gates(step, eta.log(), torch.zeros_like(eta))
    M0 = memory.neural.init_state(1).memory
    write = {n: torch.zeros_like(w) for n, w in M0.items()}
    for h in range(2):
        u = surprise(
            memory.config, {n: w[0, h] for n, w in M0.items()}, k[0, h, written_at], v[0, h, written_at], None, None
        )
        for n in u:
            write[n][0, h] = -0.4 * u[n]
    for stop in range(1, tokens + 1):
        _, state = learn(memory, q[:, :, :stop], k[:, :, :stop], v[:, :, :stop], gates.time_slice(0, stop))
        response = torch.zeros(1, 2, dtype=torch.float64)
        for t in range(written_at, stop):
            response += eta[:, :, written_at + 1 : t + 1].prod(-1)
        for n in M0:
            torch.testing.assert_close(state.memory[n], M0[n] + response[..., None, None] * write[n], **CLOSE)
