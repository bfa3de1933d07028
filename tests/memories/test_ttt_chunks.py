"""What a mini-batch may and may not change, precision, stopped gradients and traces."""

from dataclasses import dataclass

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import Trace, TTTConfig, build_memory
from nl_course.memories.common.inner_model import InnerModel
from tests.memories.ttt_tools import CLOSE, KINDS, bare, draw, gradients, layer, learn, same_gradients, twin

SIZES = (1, 2, 3, 5, 12)
PAIRS = [draw(2, 2, 12, 12, seed=s) for s in range(3)]
RATE = 0.3 * draw(2, 2, 12, seed=4).sigmoid()
ORTHONORMAL = torch.linalg.qr(PAIRS[1]).Q


def answers(make, q, k, v, rate=RATE):
    """z for every size of mini-batch; `make(size)` builds the layer, of head width 12."""
    return [learn(make(size), q, k, v, rate)[0] for size in SIZES]


def wide(**options):
    return lambda size: bare(width=24, zero=False, mini_batch=size, **options)


@dataclass(frozen=True)
class DotProduct(InnerModel):
    """Loss -f(k) . v, linear in the weights: its error is -v, whatever they are."""

    def key_side(self, weights, k, v, norm):
        return [(k, -v)]


def test_a_loss_linear_in_the_weights_has_no_mini_batches():
    def make(size):
        memory = wide(bias=False)(size)
        memory.inner = DotProduct(1, bias=False, norm=False, residual=False)
        return memory

    first, *others = answers(make, *PAIRS)
    for z in others:
        torch.testing.assert_close(z, first, **CLOSE)


def test_orthonormal_keys_in_a_bare_matrix_have_no_mini_batches():
    first, *others = answers(wide(bias=False), PAIRS[0], ORTHONORMAL, PAIRS[2])
    for z in others:
        torch.testing.assert_close(z, first, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_step_and_for_the_first_token_there_are_no_mini_batches(kind):
    make = wide(kind=kind, norm=True, residual=True)
    first, *others = answers(make, *PAIRS, rate=torch.zeros_like(RATE))
    for z in others:
        torch.testing.assert_close(z, first, **CLOSE)
    first, *others = answers(make, *PAIRS)
    for z in others:
        torch.testing.assert_close(z[:, :, 0], first[:, :, 0], **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recompute", [1, 2, 3, 100])
def test_the_tile_of_computation_changes_nothing(kind, recompute):
    memory, x = layer(kind, mini_batch=3), draw(2, 22, 8)
    other = twin(memory, recompute=recompute)
    torch.testing.assert_close(other(x)[0], memory(x)[0], **CLOSE)
    same_gradients(other, memory, x)


@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (wide(bias=False), PAIRS[1]),  # correlated keys
        (wide(bias=True), ORTHONORMAL),  # a bias is a feature that all keys share
        (wide(bias=False, norm=True), PAIRS[1]),
        (wide(kind="mlp", bias=False), ORTHONORMAL),
    ],
    ids=["correlated keys", "bias", "norm", "mlp"],
)
def test_the_mini_batch_is_part_of_the_model(make, keys):
    first, *others = answers(make, PAIRS[0], keys, PAIRS[2])
    for z in others:
        assert (z - first).abs().max() > 1e-4


def test_the_running_mean_depends_on_the_mini_batch():
    def make(size):
        memory = wide(bias=False, position_factor="learned")(size)
        torch.nn.init.zeros_(memory.position_offset)
        return memory

    first, *others = answers(make, PAIRS[0], ORTHONORMAL, PAIRS[2])
    for z in others:
        assert (z - first).abs().max() > 1e-4


def test_the_same_key_elsewhere_in_its_mini_batch_is_another_key():
    x = draw(1, 1, 8).expand(1, 9, 8)
    trace = Trace(only=["k"])
    layer(backbone="transformer", mini_batch=4)(x, None, trace)
    keys = trace["k"][0]
    torch.testing.assert_close(keys[0], keys[4], **CLOSE)
    assert (keys[1] - keys[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_stays_near_fp32_over_a_long_text(kind):
    memory = layer(kind, width=32, heads=2, spread=0.05).float()
    x = draw(1, 400, 32).float()
    y, state = memory(x)
    low, low_state = twin(memory.double(), backbone="mamba").bfloat16()(x.bfloat16())
    assert all(low_state.tensors()[f"anchor.{name}"].dtype == torch.float32 for name in state.anchor)
    assert (low.float() - y).norm() / y.norm() < 0.03


def test_mixed_precision_keeps_the_inner_loop_in_float32():
    memory, x = layer(width=32, heads=2, spread=0.05).float(), draw(1, 40, 32).float()
    with torch.autocast("cpu", torch.bfloat16):
        y, state = memory(x)
    assert state.anchor["W1"].dtype == torch.float32
    assert (y.float() - memory(x)[0]).norm() / memory(x)[0].norm() < 0.03


@pytest.mark.parametrize("path", ["reference", "chunked"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", ["first-order", "write"])
def test_stopped_gradients_change_the_gradient_and_nothing_else(kind, path, stop):
    """What the outer loop can still reach, and that both paths agree on it (backbone with projections of their own)."""
    x, exact = draw(2, 11, 8), layer(kind, path, mini_batch=4, backbone="transformer")
    stopped = twin(exact, path, stop_gradient=stop)
    torch.testing.assert_close(stopped(x)[0], exact(x)[0], **CLOSE)
    y, _ = stopped(x)
    (y * draw(*y.shape, seed=3)).sum().backward()
    reached = {n for n, p in stopped.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    frozen = {"key.weight", "value.weight"}
    if stop == "write":
        frozen |= {"rate.weight", "rate.bias", "position_offset"}
    assert {n for n, _ in stopped.named_parameters()} - reached == frozen
    other = twin(stopped, "reference" if path == "chunked" else "chunked", stop_gradient=stop)
    y, _ = other(x)
    (y * draw(*y.shape, seed=3)).sum().backward()
    for (name, a), (_, b) in zip(stopped.named_parameters(), other.named_parameters()):
        if name not in frozen:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("backbone", ["mamba", "transformer"])
@pytest.mark.parametrize("kind", KINDS)
def test_traces_tell_what_happened(kind, backbone):
    memory, x, trace = layer(kind, mini_batch=4, backbone=backbone), draw(2, 11, 8), Trace()
    memory(x, None, trace)
    # Who reads whom: the start's share and everyone's contributions are the whole answer.
    told = trace["start"] - torch.einsum("bths,bshf->bthf", trace["weights"], trace["error"])
    torch.testing.assert_close(told, trace["read"], **CLOSE)
    assert trace["weights"].triu(1).transpose(1, 2).triu(1).abs().max() == 0
    torch.testing.assert_close(trace["loss_before"], (trace["prediction"] - trace["v"]).square().sum(-1) / 2, **CLOSE)
    # Token by token, by stepping the layer itself.
    state, start = None, {n: w[None] for n, w in memory.start.items()}
    before = start
    for t in range(11):
        _, state = memory(x[:, t : t + 1], state)
        after = memory.weights(state)
        k, v = (trace[name][:, t, :, None] for name in ("k", "v"))
        loss = memory.inner.inner_loss(after, k, v, memory.norm)[..., 0]
        torch.testing.assert_close(trace["loss_after"][:, t], loss, **CLOSE)
        moved = sum((after[n] - before[n]).square().sum((-2, -1)) for n in after).sqrt()
        torch.testing.assert_close(trace["write_norm"][:, t], moved, **CLOSE)
        drift = sum((after[n] - start[n]).square().sum((-2, -1)) for n in after).sqrt()
        torch.testing.assert_close(trace["drift"][:, t], drift, **CLOSE)
        before = after


def test_what_came_before_a_call_is_not_known_to_its_trace():
    memory, x, trace = layer(mini_batch=4), draw(1, 11, 8), Trace(only=["weights"])
    memory(x[:, 6:], memory(x[:, :6])[1], trace)
    assert trace.names() == ["weights"]
    assert trace["weights"].shape == (1, 5, 2, 11)
    assert trace["weights"][..., :6].isnan().all() and trace["weights"][..., 6:].isfinite().all()


def test_under_inference_mode_it_is_the_same():
    for path in ("reference", "chunked"):
        memory, x = layer(path=path, mini_batch=4), draw(1, 11, 8)
        expected, _ = memory(x)
        with torch.inference_mode():
            y, state = memory(x[:, :5])
            again, _ = memory(x[:, 5:], state)
        torch.testing.assert_close(torch.cat([y, again], dim=1), expected, **CLOSE)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kind": "cubic"}, "linear, mlp"),
        ({"kind": "liner"}, "Did you mean 'linear'"),
        ({"backbone": "mumba"}, "Did you mean 'mamba'"),
        ({"heads": 3}, "multiple of heads 3"),
        ({"mini_batch": 0}, "mini_batch must be a whole number"),
        ({"position_factor": "mean"}, "learned, sum"),
        ({"stop_gradient": "all"}, "first-order"),
        ({"recompute": -1}, "recompute"),
        ({"base_rate": -1.0}, "base_rate"),
        ({"heads": 8}, "even"),
    ],
)
def test_mistakes_are_named(options, named):
    with pytest.raises(CourseError, match=named):
        build_memory("ttt-linear", **({"width": 8, "heads": 2} | options))


def test_the_papers_rates():
    assert TTTConfig(8, 2).base_rate == 1.0 and TTTConfig(8, 2, kind="mlp").base_rate == 0.1
    assert build_memory("ttt-mlp", 8, 2).config.kind == "mlp"
    assert len(gradients(layer(), draw(1, 5, 8))) == 1 + len(list(layer().parameters()))
