"""What the size of a chunk may and may not change in Titans' memory, its stability and precision, and the options that
are not the paper's."""

from dataclasses import dataclass

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import Titans, TitansConfig, Trace, build_memory
from nl_course.memories.ablations.pooled import PooledTitans
from nl_course.memories.common.inner_model import InnerModel
from nl_course.memories.titans.chunk import Gates
from tests.memories.titans_tools import bare, constant_gates, layer, learn, network, some_gates, surprise, twin
from tests.memories.ttt_tools import CLOSE, draw, gradients, same_gradients

PATHS = ("reference", "chunked")
SIZES = (1, 2, 3, 5, 12)
PAIRS = [draw(2, 2, 12, 12, seed=s) for s in range(3)]
ORTHONORMAL = torch.linalg.qr(PAIRS[1]).Q
GATES = some_gates(2, 2, 12, largest=0.3)
KEPT = GATES._replace(log_retention=torch.zeros_like(GATES.step))


def maker(zero: bool = False, **options):
    return lambda size: bare(zero, width=24, chunk=size, **options)


def outputs_by_chunk(make, q, k, v, gates=GATES) -> list[torch.Tensor]:
    """y for every size of chunk; `make(size)` builds the layer, of head width 12."""
    return [learn(make(size), q, k, v, gates)[0] for size in SIZES]


@dataclass(frozen=True)
class DotProduct(InnerModel):
    """Loss -f(k) . v, linear in the weights: its error is -v, whatever they are."""

    def key_side(self, weights, k, v, norm):
        return [(k, -v)]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [Titans, PooledTitans])
def test_any_split(kind, path):
    """Also inside a chunk: the tile of computation is no part of the model."""
    memory, x = layer(path, kind=kind), draw(2, 21, 8)
    whole, state = memory(x)
    for pieces in ([1] * 21, [2, 3, 5, 7, 4], [4, 4, 13], [17, 1, 1, 1, 1]):
        outputs, carried = [], None
        for piece in x.split(pieces, dim=1):
            y, carried = memory(piece, carried)
            outputs.append(y)
        torch.testing.assert_close(torch.cat(outputs, dim=1), whole, **CLOSE)
        for name, tensor in state.tensors().items():
            torch.testing.assert_close(carried.tensors()[name], tensor, **CLOSE)


def test_a_loss_linear_in_the_weights_has_no_chunks():
    def make(size):
        memory = maker()(size)
        memory.neural.inner = DotProduct(1, bias=False, norm=False, residual=False)
        return memory

    first, *others = outputs_by_chunk(make, *PAIRS)
    for y in others:
        torch.testing.assert_close(y, first, **CLOSE)


@pytest.mark.parametrize(
    ("make", "gates"),
    [(maker(), KEPT), (maker(zero=True), GATES), (maker(norm=True, residual=True), KEPT)],
    ids=["alpha = 0", "M_0 = 0", "alpha = 0, with a norm"],
)
def test_orthonormal_keys_in_a_matrix_have_no_chunks(make, gates):
    """No write moves the answer to another key. A norm changes nothing: its error depends on that answer alone."""
    first, *others = outputs_by_chunk(make, PAIRS[0], ORTHONORMAL, PAIRS[2], gates)
    for y in others:
        torch.testing.assert_close(y, first, **CLOSE)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_without_a_step_and_for_the_first_token_there_are_no_chunks(layers):
    make = maker(layers=layers, norm=True, residual=True)
    first, *others = outputs_by_chunk(make, *PAIRS, GATES._replace(step=0 * GATES.step))
    for y in others:
        torch.testing.assert_close(y, first, **CLOSE)
    first, *others = outputs_by_chunk(make, *PAIRS)
    for y in others:
        torch.testing.assert_close(y[:, :, 0], first[:, :, 0], **CLOSE)


@pytest.mark.parametrize(
    ("make", "keys", "gates"),
    [
        (maker(), PAIRS[1], KEPT),
        (maker(), ORTHONORMAL, GATES),
        (maker(norm=True), PAIRS[1], KEPT),
        (maker(layers=2), ORTHONORMAL, KEPT),
        (maker(zero=True, bias=True), ORTHONORMAL, KEPT),
    ],
    ids=["correlated keys", "forgetting a learned start", "correlated keys and a norm", "two layers", "bias"],
)
def test_the_chunk_is_part_of_the_model(make, keys, gates):
    first, *others = outputs_by_chunk(make, PAIRS[0], keys, PAIRS[2], gates)
    for y in others:
        assert (y - first).abs().max() > 1e-4


def test_pooled_gates_depend_on_the_chunk_even_where_the_papers_do_not():
    def last(kind: type[Titans], size: int) -> torch.Tensor:
        memory = bare(width=24, chunk=size, zero=True, kind=kind, max_step=0.3)
        neural, x = memory.neural, draw(2, 12, 24, seed=7)
        state = neural.init_state(2)
        return neural.learn(PAIRS[0], ORTHONORMAL, PAIRS[2], neural.gates(x), state)[0][:, :, -1]

    for size in (2, 3, 12):
        torch.testing.assert_close(last(Titans, size), last(Titans, 1), **CLOSE)
        assert (last(PooledTitans, size) - last(PooledTitans, 1)).abs().max() > 1e-3
    torch.testing.assert_close(last(PooledTitans, 1), last(Titans, 1), **CLOSE)


def test_the_length_of_a_projected_key_does_not_matter():
    """Where SiLU is a straight line, that is, far from zero: it stands between the projection and the norm."""

    def keys(scale: float, far: float) -> torch.Tensor:
        memory, trace, x = layer(conv=0, persistent=0), Trace(), draw(2, 9, 8)
        with torch.no_grad():
            memory.neural.key.weight.copy_(scale * (draw(8, 8, seed=4).abs() + far))
        memory(x.abs() + 1, None, trace)
        return trace["write_norm"]

    torch.testing.assert_close(keys(3.0, far=20), keys(1.0, far=20), rtol=1e-8, atol=1e-8)
    assert (keys(3.0, far=0) - keys(1.0, far=0)).abs().max() > 1e-4


@pytest.mark.parametrize("path", PATHS)
def test_steps_below_2_are_stable_and_above_diverge_on_a_repeated_key(path):
    key = draw(1, 1, 1, 4, seed=1).repeat(1, 2, 60, 1)
    key, value = key / key.norm(dim=-1, keepdim=True), draw(1, 2, 1, 4, seed=2).repeat(1, 1, 60, 1)
    memory = bare(path=path, momentum=False, retention=False)
    start = memory.neural.read(memory.neural.init_state(1).memory, key) - value
    for theta, stable in ((0.5, True), (1.9, True), (2.1, False), (3.0, False)):
        y, _ = learn(memory, key, key, value, constant_gates((1, 2, 60), theta))
        power = (1 - theta) ** torch.arange(1, 61, dtype=torch.float64)[None, None, :, None]
        torch.testing.assert_close(y - value, power * start, rtol=1e-8, atol=1e-10)
        last, first = (y - value)[:, :, -1].norm(), start[:, :, 0].norm()
        assert last < 0.01 * first if stable else last > 100 * first


@pytest.mark.parametrize("size", [4, 16])
def test_a_chunk_of_equal_keys_takes_its_steps_together(size):
    """The anchor does not move, so c equal writes are one write of c theta: the bound is 2 / c, our default's."""
    assert TitansConfig(8, 2, chunk=size).largest_step == 2 / size and TitansConfig(8, 2, chunk=1).largest_step == 1
    tokens = 10 * size
    key = draw(1, 1, 1, 4, seed=1).repeat(1, 2, tokens, 1)
    key, value = key / key.norm(dim=-1, keepdim=True), draw(1, 2, 1, 4, seed=2).repeat(1, 1, tokens, 1)
    memory = bare(chunk=size, momentum=False, retention=False)
    start = memory.neural.read(memory.neural.init_state(1).memory, key) - value
    for factor, growth in ((1.9, 0.9**10), (2.0, 1.0), (2.1, 1.1**10)):
        y, _ = learn(memory, key, key, value, constant_gates((1, 2, tokens), factor / size))
        torch.testing.assert_close((y - value)[:, :, -1], growth * start[:, :, -1], **CLOSE)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_bf16_stays_near_fp32_and_keeps_what_it_learns_in_fp32(layers):
    memory = layer(width=32, heads=2, layers=layers, spread=0.05, chunk=16, conv=4).float()
    x = draw(1, 400, 32).float()
    y, _ = memory(x)
    low, state = twin(memory.double()).bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    for name, tensor in state.tensors().items():
        assert name.startswith("conv_states") or tensor.dtype == torch.float32
    assert (low.float() - y).norm() / y.norm() < 0.03


@pytest.mark.parametrize("layers", [2, 3])
def test_the_bound_of_a_matrix_is_not_one_for_a_deep_memory_with_momentum(layers):
    """Every layer moves at once, and momentum of 1/2 doubles each step: now and then one token, repeated, is written
    until the weights explode. Half the step, and it is learnt."""

    def ends(max_step: float) -> list[bool]:
        finite = []
        for seed in (4, 7, 27):
            torch.manual_seed(seed)
            memory = Titans(TitansConfig(32, 2, layers=layers, max_step=max_step, chunk=16)).float()
            torch.nn.init.constant_(memory.neural.forget.bias, -5.0)  # what these seeds were found with
            x = draw(1, 1, 32, seed=seed + 100).float().expand(1, 1600, 32)
            with torch.no_grad():
                finite.append(bool(memory(x)[0].isfinite().all()))
        return finite

    assert not all(ends(2 / 16)) and all(ends(1 / 16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("layers", "text"), [(1, "random"), (2, "random"), (3, "random"), (4, "random"), (1, "same"), (2, "same")]
)
def test_a_long_text_stays_finite_with_the_default_bounds(text, layers, dtype):
    torch.manual_seed(0)
    memory = Titans(TitansConfig(32, 2, layers=layers)).to(dtype)
    x = draw(1, 5000, 32).to(dtype) if text == "random" else draw(1, 1, 32).to(dtype).expand(1, 5000, 32)
    with torch.no_grad():
        y, state = memory(x)
        early, _ = memory(x[:, :500])
    assert y.isfinite().all() and y.abs().max() < 3 * early.abs().max()
    start = memory.init_state(1).neural.memory
    for name, weight in state.neural.memory.items():
        assert weight.norm() < 10 * start[name].norm()


def pooled_by_hand(memory: Titans, q, k, v, x) -> tuple[torch.Tensor, dict, dict]:
    """The module's formula, one head and one row at a time."""
    c, n = memory.config, memory.neural
    reads = torch.zeros_like(v)
    ends = {}
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            M = {name: w[h] for name, w in n.start.items()}
            S = {name: torch.zeros_like(w) for name, w in M.items()}
            for start in range(0, q.shape[2], c.chunk):
                rows, before = range(start, min(start + c.chunk, q.shape[2])), M
                if len(rows) == c.chunk:
                    mean = x[b, start : start + c.chunk].mean(0)
                    eta, alpha = (torch.sigmoid(mean @ g.weight[h] + g.bias[h]) for g in (n.past, n.forget))
                    S = {name: eta * S[name] for name in S}
                    for t in rows:
                        theta = c.largest_step * torch.sigmoid(x[b, t] @ n.step.weight[h] + n.step.bias[h])
                        u = surprise(c, before, k[b, h, t], v[b, h, t], None, None)
                        S = {name: S[name] - theta * u[name] for name in S}
                    M = {name: (1 - alpha) * before[name] + S[name] for name in M}
                for t in rows:
                    seen = M if t == start + c.chunk - 1 else before
                    reads[b, h, t] = network(c, seen, q[b, h, t], None, None).detach()
            ends[b, h] = M, S
    return reads, ends


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_pooled_gates_are_a_plain_loop(size, layers, path):
    memory, x = bare(path=path, layers=layers, chunk=size, kind=PooledTitans, max_step=0.2), draw(2, 13, 8)
    q, k, v = (draw(2, 2, 13, 4, seed=s) for s in range(3))
    y, state = learn(memory, q, k, v, memory.neural.gates(x))
    expected, ends = pooled_by_hand(memory, q, k, v, x)
    torch.testing.assert_close(y, expected, **CLOSE)
    for (b, h), (M, S) in ends.items():
        for name in M:
            torch.testing.assert_close(state.memory[name][b, h], M[name], **CLOSE)
            torch.testing.assert_close(state.momentum[name][b, h], S[name], **CLOSE)


@pytest.mark.parametrize("parts", [{}, {"momentum": False}, {"retention": False}, {"norm": True, "bias": True}])
def test_both_paths_of_pooled_gates_agree(parts):
    memory, x = layer(kind=PooledTitans, chunk=3, **parts), draw(2, 13, 8)
    other = twin(memory, "reference")
    torch.testing.assert_close(memory(x)[0], other(x)[0], **CLOSE)
    same_gradients(memory, other, x)


def test_the_shortcut_is_another_memory_unless_a_chunk_is_one_token():
    x = draw(2, 13, 8)
    for size in (1, 2, 4):
        memory = layer(chunk=size, persistent=0)
        difference = (memory(x)[0] - twin(memory, kind=PooledTitans)(x)[0]).abs().amax((0, 2))
        if size == 1:
            assert difference.max() < 1e-10
        else:
            assert difference.min() > 1e-5  # the first token already: it does not read its own write


@pytest.mark.parametrize("kind", [Titans, PooledTitans])
@pytest.mark.parametrize("path", PATHS)
def test_first_order_changes_the_gradient_and_nothing_else(path, kind):
    x, exact = draw(2, 13, 8), layer(path, kind=kind)
    stopped = twin(exact, path, stop_gradient="first-order")
    torch.testing.assert_close(stopped(x)[0], exact(x)[0], **CLOSE)
    y, _ = stopped(x)
    (y * draw(*y.shape, seed=3)).sum().backward()
    reached = {n for n, p in stopped.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    blind = {f"neural.{n}" for n in ("key.weight", "value.weight")}
    blind |= {f"neural.conv_{n}.{p}" for n in ("key", "value") for p in ("weight", "bias")}
    assert {n for n, _ in stopped.named_parameters()} - reached == blind
    other = twin(stopped, "reference" if path == "chunked" else "chunked")
    y, _ = other(x)
    (y * draw(*y.shape, seed=3)).sum().backward()
    whole = dict(zip((n for n, _ in exact.named_parameters()), gradients(exact, x)[1:]))
    for (name, a), (_, b) in zip(stopped.named_parameters(), other.named_parameters()):
        if name not in blind:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-8)
    assert (stopped.neural.start["W1"].grad - whole["neural.start.W1"]).abs().max() > 1e-6


@pytest.mark.parametrize("parts", [{}, {"momentum": False, "retention": False}, {"bias": True, "norm": True}])
def test_traces_tell_what_happened(parts):
    memory, x, trace = layer(persistent=0, **parts), draw(2, 11, 8), Trace()
    memory(x, None, trace)
    told = trace["start"] - torch.einsum("bths,bshf->bthf", trace["weights"], trace["error"])
    torch.testing.assert_close(told, trace["read"], **CLOSE)
    assert trace["weights"].triu(1).transpose(1, 2).triu(1).abs().max() == 0
    torch.testing.assert_close(trace["loss_before"], (trace["prediction"] - trace["v"]).square().sum(-1) / 2, **CLOSE)
    state, before = None, memory.neural.init_state(2).memory
    for t in range(11):
        _, state = memory(x[:, t : t + 1], state)
        after = memory.weights(state)
        k, v = (trace[name][:, t, :, None] for name in ("k", "v"))
        loss = (memory.recall(state, k) - v).square().sum((-2, -1)) / 2
        torch.testing.assert_close(trace["loss_after"][:, t], loss, **CLOSE)
        moved = sum((after[n] - before[n]).square().sum((-2, -1)) for n in after).sqrt()
        torch.testing.assert_close(trace["write_norm"][:, t], moved, **CLOSE)
        before = after


def test_under_inference_mode_it_is_the_same():
    for path in PATHS:
        memory, x = layer(path), draw(1, 11, 8)
        expected, _ = memory(x)
        with torch.inference_mode():
            y, state = memory(x[:, :5])
            again, _ = memory(x[:, 5:], state)
        torch.testing.assert_close(torch.cat([y, again], dim=1), expected, **CLOSE)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"heads": 3}, "multiple of heads 3"),
        ({"layers": 5}, "1 to 4"),
        ({"layers": 0}, "layers"),
        ({"chunk": 0}, "chunk"),
        ({"persistent": -1}, "persistent"),
        ({"max_step": -1.0}, "max_step"),
        ({"stop_gradient": "write"}, "first-order"),
        ({"activation": "relu"}, "gelu, silu"),
    ],
)
def test_mistakes_are_named(options, named):
    with pytest.raises(CourseError, match=named):
        build_memory("titans", **({"width": 8, "heads": 2} | options))


def test_gates_given_as_none_are_off():
    """No momentum is eta = 0, no forgetting alpha = 0."""
    q, k, v = (draw(1, 2, 7, 4, seed=s) for s in range(3))
    gates = some_gates(1, 2, 7)
    plain, _ = learn(bare(chunk=3, momentum=False, retention=False), q, k, v, Gates(gates.step, None, None))
    never, always = torch.full_like(gates.step, -torch.inf), torch.zeros_like(gates.step)
    both = bare(chunk=3)
    with torch.no_grad():
        for name, weight in both.neural.start.items():
            weight.copy_(bare(chunk=3, momentum=False, retention=False).neural.start[name])
    y, _ = learn(both, q, k, v, Gates(gates.step, never, always))
    torch.testing.assert_close(y, plain, **CLOSE)
