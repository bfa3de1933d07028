"""Our neural memory against titans-pytorch 0.5.5 (lucidrains), the best known public implementation, where the two
compute the same thing, and what differs by design.

Theirs with `chunk_size=1` takes gates and gradients per token, and `batch_size=b` renews the weights at which gradients
are taken every b tokens: that is our chunk of b. `chunk_size=c` pools gates over c tokens: our `PooledTitans`.
Accounted for, one by one:

* their loss is the mean over f features of the squared error, ours half the sum: our largest step is 2 / f of theirs;
* both aim at v itself; theirs has no convolution and, as called here, the same SiLU behind each projection;
* q and k have length 1 here; their RMSNorm, times f^(-1/2), is that but for its epsilon, so both use our `unit`;
* their MLP uses GELU in its erf form, ours the tanh form: `Plain` below is their MemoryMLP with the latter;
* their norm wrapper makes the LayerNorm's gain a fast weight, ours does not: `Normed` below has no gain at all;
* reading: token t sees the weights after floor((t + 1) / c) whole chunks. For c = 1 these are the weights right after
  its own write, as ours; for c > 1 only a chunk's last token sees its own chunk, as our pooled gates have it;
* their gate and projection behind the heads are left out: what is compared is what was read.
"""

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from nl_course.memories import Titans, TitansConfig
from nl_course.memories.ablations.pooled import PooledTitans
from nl_course.memories.common.inner_model import unit
from tests.peers import random

titans = pytest.importorskip("titans_pytorch", reason="titans-pytorch is not installed; `make peers` does it.")

WIDTH, HEADS, TOKENS = 8, 2, 21
CLOSE = dict(rtol=1e-9, atol=1e-9)


class Plain(titans.MemoryMLP):
    def forward(self, x):
        for i, weight in enumerate(self.weights):
            x = (gelu(x, approximate="tanh") if i else x) @ weight
        return x


class Normed(Plain):
    """x + LN(MLP(x)) with a norm that learns nothing."""

    def forward(self, x):
        return x + layer_norm(super().forward(x), x.shape[-1:], eps=1e-6)


class Unit(torch.nn.Module):
    def forward(self, x):
        return unit(x)


def pair(layers=2, normed=False, momentum=True, wrapped=False, rate=0.3, **options):
    """(theirs, ours) with the same weights in float64: `rate` is their largest step, `options` are theirs."""
    torch.manual_seed(0)
    f = WIDTH // HEADS
    model = (Normed if normed else Plain)(f, layers, expansion_factor=2.0)
    theirs = titans.NeuralMemory(
        WIDTH,
        dim_head=f,
        heads=HEADS,
        model=model,
        momentum=momentum,
        pre_rmsnorm=False,
        activation=torch.nn.SiLU(),
        mem_model_norm_add_residual=wrapped,
        default_step_transform_max_lr=rate,
        **options,
    ).double()
    theirs.q_norm = theirs.k_norm = Unit()
    theirs.retrieve_gate, theirs.combine_heads = None, torch.nn.Identity()
    pooled = theirs.store_chunk_size > 1
    kind = PooledTitans if pooled else Titans
    ours = kind(
        TitansConfig(
            WIDTH,
            HEADS,
            layers=layers,
            expansion=2,
            activation="gelu",
            chunk=theirs.store_chunk_size if pooled else options.get("batch_size") or TOKENS,
            conv=0,
            persistent=0,
            momentum=momentum,
            max_step=rate * 2 / f,
            norm=normed or wrapped,
            residual=normed or wrapped,
        )
    ).double()
    neural, generator = ours.neural, torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():  # their heads start alike
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for name in ("queries", "keys", "values"):
            mine = getattr(neural, {"queries": "query", "keys": "key", "values": "value"}[name])
            mine.weight.copy_(getattr(theirs, f"to_{name}")[0].weight)
        for mine, other in ((neural.step, theirs.to_adaptive_step), (neural.forget, theirs.to_decay_factor)):
            mine.load_state_dict(other[0].state_dict())
        if momentum:
            neural.past.load_state_dict(theirs.to_momentum[0].state_dict())
        for name, weight in theirs.memory_model_parameter_dict.items():
            if name.split(".")[-1].isdigit():
                neural.start[inner_name(name)].copy_(weight)
    return theirs, ours


def inner_name(name: str) -> str:
    """Their weights.0, or model.weights.0 in the wrapper, is our W1."""
    return f"W{int(name.split('.')[-1]) + 1}"


def read(ours: Titans, x: torch.Tensor, state=None):
    """What our memory read, heads side by side, (B, T, d), before our norm, gate and projection."""
    neural = ours.neural
    (q, k, v), _ = neural.project(x, (), "qkv")
    y, state = neural.learn(q, k, v, neural.gates(x), state or neural.init_state(x.shape[0]))
    return y.transpose(1, 2).flatten(2), state


def assert_same_weights(state, their_state) -> None:
    weights, momentum = their_state.states
    for name, weight in weights.items():
        shape = (-1, HEADS, *weight.shape[1:])
        torch.testing.assert_close(state.memory[inner_name(name)], weight.reshape(shape), **CLOSE)
        if state.momentum:
            past = momentum[name][0].reshape(shape)
            torch.testing.assert_close(state.momentum[inner_name(name)], past, **CLOSE)


@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 4, 7, TOKENS])
def test_gates_and_gradients_per_token(size, layers, normed, momentum):
    theirs, ours = pair(layers, normed, momentum, chunk_size=1, batch_size=size)
    x = random(3, TOKENS, WIDTH)
    expected, their_state = theirs(x)
    y, state = read(ours, x)
    torch.testing.assert_close(y, expected, **CLOSE)
    assert_same_weights(state, their_state)


@pytest.mark.parametrize("size", [1, 4])
def test_gradients_of_the_outer_loop(size):
    theirs, ours = pair(chunk_size=1, batch_size=size)
    x, direction = random(2, TOKENS, WIDTH).requires_grad_(), random(2, TOKENS, WIDTH, seed=3)
    neural, start = ours.neural, theirs.memory_model_parameter_dict
    both = {
        "x": (x, x),
        "query": (neural.query.weight, theirs.to_queries[0].weight),
        "key": (neural.key.weight, theirs.to_keys[0].weight),
        "value": (neural.value.weight, theirs.to_values[0].weight),
        "step": (neural.step.weight, theirs.to_adaptive_step[0].weight),
        "momentum": (neural.past.weight, theirs.to_momentum[0].weight),
        "forgetting": (neural.forget.weight, theirs.to_decay_factor[0].weight),
        "W1": (neural.start["W1"], start["weights.0"]),
        "W2": (neural.start["W2"], start["weights.1"]),
    }
    our_gradients = torch.autograd.grad((read(ours, x)[0] * direction).sum(), [mine for mine, _ in both.values()])
    expected = torch.autograd.grad((theirs(x)[0] * direction).sum(), [other for _, other in both.values()])
    for name, a, b in zip(both, our_gradients, expected):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("size", [3, 7])
def test_the_pooled_shortcut(size, layers):
    theirs, ours = pair(layers, chunk_size=size, batch_size=size)
    x = random(3, TOKENS, WIDTH)
    expected, their_state = theirs(x)
    y, state = read(ours, x)
    torch.testing.assert_close(y, expected, **CLOSE)
    assert_same_weights(state, their_state)


def test_by_design_pooled_gates_are_another_memory():
    """Section 3.2 of the paper has gates of every token."""
    x = random(2, TOKENS, WIDTH)
    (pooled, _), (single, _) = pair(chunk_size=7, batch_size=7), pair(chunk_size=1, batch_size=7)
    a, b = pooled(x)[0], single(x)[0]
    assert (a - b).abs().amax((0, 2)).min() > 1e-6


@pytest.mark.parametrize("size", [1, 7])
def test_by_design_without_batch_size_all_gradients_are_taken_at_the_first_weights(size):
    """Their default. Ours is then one chunk as long as the call; with pooled gates we have no name for it."""
    x = random(2, TOKENS, WIDTH)
    (never, as_one), (renewed, _) = pair(chunk_size=size), pair(chunk_size=size, batch_size=7)
    first = 7 if size == 1 else 13  # up to here a second renewal could not be seen
    torch.testing.assert_close(never(x)[0][:, :first], renewed(x)[0][:, :first], **CLOSE)
    assert (never(x)[0] - renewed(x)[0])[:, first:].abs().amax((0, 2)).min() > 1e-6
    if size == 1:
        torch.testing.assert_close(read(as_one, x)[0], never(x)[0], **CLOSE)


def test_by_design_a_chunk_that_is_not_full_is_not_written():
    """Theirs keeps its tokens for later; ours writes every token as it comes, so that a text may end anywhere."""
    theirs, _ = pair(chunk_size=7, batch_size=7)
    _, ours = pair(chunk_size=1, batch_size=7)
    x, y = random(1, 6, WIDTH), random(1, 6, WIDTH, seed=4)
    _, one = theirs(x)
    _, other = theirs(y)
    for name, weight in dict(one.weights).items():
        assert torch.equal(weight, other.weights[name])
    assert (read(ours, x)[1].memory["W1"] - read(ours, y)[1].memory["W1"]).abs().max() > 1e-3


def test_by_design_the_norms_gain_is_a_fast_weight_of_theirs():
    """Their default memory model, x + LN(MLP(x)) (1 + gamma), writes gamma too. Ours, as TTT's, leaves it to the outer
    loop."""
    theirs, ours = pair(chunk_size=1, batch_size=4, wrapped=True)
    neural, x = ours.neural, random(1, TOKENS, WIDTH)
    gamma = theirs.memory_model_parameter_dict["norm.gamma"]
    with torch.no_grad():
        neural.gain.copy_(1 + gamma[:, None])
        neural.shift.zero_()
    expected, state = theirs(x)
    assert (state.states[0]["norm.gamma"] - gamma).abs().max() > 1e-3
    y, _ = read(ours, x)
    assert (y - expected).abs().max() > 1e-3
    # With a step of zero only the forgetting of the gain is left: it fades like a weight.
    with torch.no_grad():
        theirs.to_adaptive_step[0].bias.fill_(-1e9)
        neural.step.bias.fill_(-1e9)
    _, faded = theirs(x[:, :1])
    alpha = torch.sigmoid(theirs.to_decay_factor[0](x[0, 0]))
    torch.testing.assert_close(faded.states[0]["norm.gamma"], (1 - alpha)[:, None] * gamma, **CLOSE)


def test_by_design_a_loss_that_is_a_mean_takes_shorter_steps_the_wider_a_head():
    """So a largest step of theirs is 2 / f of that for half the sum of squares, ours."""
    theirs, ours = pair(chunk_size=1, batch_size=4)
    f, a, b = WIDTH // HEADS, random(5, WIDTH // HEADS), random(5, WIDTH // HEADS, seed=1)
    torch.testing.assert_close(theirs.store_memory_loss_fn(a, b), 2 / f * (a - b).square().sum(-1) / 2, **CLOSE)
    x = random(2, TOKENS, WIDTH)
    equal_steps, _ = pair(chunk_size=1, batch_size=4, rate=0.3 * f / 2)
    assert (read(ours, x)[0] - equal_steps(x)[0]).abs().max() > 1e-3
