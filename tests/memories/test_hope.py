"""Self-modifying Titans: the definition, what it must be in special cases, and where its gradients go."""

from dataclasses import asdict, replace

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import SelfModifying, SelfModifyingConfig, Trace
from nl_course.memories.ablations.gain import SharedGain
from nl_course.memories.ablations.switches import ablate, ablated
from nl_course.memories.common.inner_model import InnerModel
from nl_course.memories.common.weights import Weights
from nl_course.memories.titans.chunk import Gates
from nl_course.memories.titans.reference import reference as titans_reference
from tests.memories.hope_tools import ALL, CLOSE, by_gain, draw, gradients, layer, same, same_weights, twin

OPTIONS = [
    dict(),
    dict(kind="linear"),
    dict(erase="input", read="running"),
    dict(erase="off", chunk=6, chunk_others=2),
    dict(chunk=3, chunk_others=5, read="running", momentum=0.6),
    dict(kind="linear", read="running", momentum=0.6, chunk_others=1),
    dict(momentum=0.5, erase="off", hidden=3, activation="gelu"),
    dict(variant="adaptive", momentum=0.3, erase="input"),
    dict(variant="adaptive", kind="linear", adaptive_query=True),
    dict(variant="plain", read="running"),
    dict(variant="adaptive", adaptive=("memory", "step"), chunk_others=2),
    dict(adaptive=("key", "retention"), chunk_others=3),
    dict(adaptive_query=True, retention=False, values="unit", heads=1),
    dict(chunk=1, conv=0),
    dict(chunk=64, read="running", values="plain"),
]


# -- the definition --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stop", ["none", "targets", "first-order", "write"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_solve_equals_the_loop_in_values_and_gradients(options, stop):
    memory = layer("chunked", stop_gradient=stop, **options)
    same(memory, twin(memory, "reference"), draw(2, 13, 8))


def test_chunks_of_one_token_are_the_token_recurrence():
    """Equation 88 as it is printed, in columns, written out for linear memories."""
    memory = layer(kind="linear", chunk=1, heads=1, values="plain", conv=0, width=5)
    x, trace = draw(1, 9, 5), Trace()
    _, state = memory(x, None, trace)
    M = {name: memory.start[f"{name}_out"][0].T for name in ALL}
    eye = torch.eye(5, dtype=x.dtype)
    for t in range(9):
        z = x[0, t] / 5**0.5
        k, v, q = M["key"] @ z, M["value"] @ z, x[0, t] @ memory.query.weight.T
        k, q = k / (k @ k + 1e-6).sqrt(), q / (q @ q + 1e-6).sqrt()
        eta = 0.3 * (M["step"] @ z + memory.step_bias).sigmoid()
        alpha = (M["retention"] @ z + memory.retention_bias).sigmoid()
        torch.testing.assert_close(trace["read"][0, t, 0], M["memory"] @ q, **CLOSE)
        for name, W in M.items():
            error = W @ k - W @ v
            M[name] = W @ (alpha * eye - eta * torch.outer(k, k)) - eta * torch.outer(error, k)
    same_weights(memory.weights(state), {name: {"out": W.T[None, None]} for name, W in M.items()})


def test_two_layers_are_erased_each_along_its_own_input():
    """One token, by hand: the choice "DGD per layer"."""
    memory = layer(chunk=1, heads=1, activation="silu")
    x, trace = draw(1, 1, 8), Trace()
    _, state = memory(x, None, trace)
    k, v, eta, alpha = (trace[name][0, 0, 0] for name in ("key", "value", "step_size", "retention"))
    A, B = (memory.start[f"value_{part}"][0].detach().requires_grad_() for part in ("into", "out"))

    def answer(z):
        return z + torch.nn.functional.silu(z @ A) @ B

    gA, gB = torch.autograd.grad((answer(k) - answer(v).detach()).square().sum() / 2, (A, B))
    h = torch.nn.functional.silu(k @ A)
    along = h / (h @ h + 1e-6).sqrt()
    eye = torch.eye(8, dtype=x.dtype)
    after = {
        "into": (alpha * eye - eta * torch.outer(k, k)) @ A - eta * gA,
        "out": (alpha * eye - eta * torch.outer(along, along)) @ B - eta * gB,
    }
    same_weights({"value": {part: w[None, None] for part, w in after.items()}}, memory.weights(state))


# -- linear memories share one gain ----------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"erase": "off"}, {"momentum": 0.5}, {"read": "running"}], ids=str)
@pytest.mark.parametrize("others", [4, 3])
def test_linear_memories_share_one_gain(options, others):
    memory = layer(kind="linear", chunk_others=others, **options)
    x = draw(2, 13, 8)
    same(memory, by_gain(memory), x)
    now = memory.weights(memory(x)[1])
    moved = ALL if others == 4 else ALL[:-1]
    gain = torch.linalg.solve(memory.start["key_out"].mT, now["key"]["out"].mT).mT  # P_t, from W_t = P_t W_0
    for name in moved:
        torch.testing.assert_close(now[name]["out"], gain @ memory.start[f"{name}_out"], rtol=1e-8, atol=1e-8)


def test_one_gain_is_the_whole_state():
    memory = by_gain(layer(kind="linear", conv=0, chunk_others=2))
    _, state = memory(draw(3, 5, 8))
    assert state.nbytes == 3 * 8 * (2 * 2 * 8 * 8 // 2)  # two clocks, anchor and running, d^2 / heads, float64
    assert sum(w.shape[-1] == w.shape[-2] == 4 for w in state.tensors().values()) == 4


# -- Titans' memory and the lower variants are special cases ----------------------------------------------------------
@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("retention", [True, False])
def test_frozen_around_it_the_memory_is_titans(momentum, retention):
    """With the others frozen, targets v and no erase: Titans' memory, forget gate 1 - alpha. 12 tokens, 3 chunks."""
    options = dict(variant="plain", erase="off", read="running", momentum=momentum, retention=retention, values="plain")
    memory, x, trace = layer(**options), draw(2, 12, 8), Trace()
    _, state = memory(x, None, trace)
    q, k, v = (trace[name].transpose(1, 2) for name in ("query", "key", "value"))
    step, kept = (trace[name].transpose(1, 2) for name in ("step_size", "retention"))
    inner = InnerModel(2, expansion=1, activation="silu", bias=False, norm=False, residual=True)
    weights = Weights(
        {f"W{i}": memory.start[f"memory_{part}"][None].expand(2, -1, -1, -1) for i, part in ((1, "into"), (2, "out"))}
    )
    gates = Gates(step, torch.full_like(step, momentum).log() if momentum else None, kept.log())
    S = weights.map(torch.zeros_like)
    y, weights, _, _ = titans_reference(inner, None, weights, S, weights, q, k, v, *gates.plain(), chunk=4)
    torch.testing.assert_close(y.transpose(1, 2), trace["read"], **CLOSE)
    same_weights({"memory": {"into": weights["W1"], "out": weights["W2"]}}, memory.weights(state))


def test_rung_two_with_one_memory_moving_is_rung_one():
    memory = layer(variant="plain", read="running")
    same(memory, twin(memory, variant="adaptive", adaptive=("memory",)), draw(2, 11, 8))
    whole = layer(variant="adaptive")
    frozen, plain = twin(whole), twin(whole, variant="plain")
    x = draw(2, 11, 8)
    ablate(frozen, frozen=("key", "value", "step", "retention"))
    torch.testing.assert_close(frozen(x)[0], plain(x)[0], **CLOSE)
    assert (whole(x)[0] - plain(x)[0]).abs().max() > 1e-3


# -- what stays when nothing is written ------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["mlp", "linear"])
@pytest.mark.parametrize("read", ["boundary", "running"])
def test_without_steps_and_forgetting_every_memory_stays(kind, read):
    memory, x, trace = layer(kind=kind, read=read), draw(2, 11, 8), Trace()
    with torch.no_grad():
        memory.step_bias.fill_(-1e6)
        memory.retention_bias.fill_(1e6)
    _, state = memory(x, None, trace)
    same_weights(memory.weights(state), memory.weights(memory.init_state(2)))
    into, out = memory.start["memory_into"] if kind == "mlp" else None, memory.start["memory_out"]
    q = trace["query"].transpose(1, 2)
    fixed = q @ out if kind == "linear" else q + torch.nn.functional.silu(q @ into) @ out
    torch.testing.assert_close(trace["read"].transpose(1, 2), fixed, **CLOSE)


def test_a_linear_memory_begun_at_zero_stays_zero():
    memory = layer(kind="linear")
    with torch.no_grad():
        memory.start["memory_out"].zero_()
    y, state = memory(draw(2, 11, 8))
    assert not memory.weights(state)["memory"]["out"].any()
    assert not y.any()


# -- the outer gradient ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["mlp", "linear"])
@pytest.mark.parametrize("variant", ["self-modifying", "adaptive"])
def test_the_outer_gradient_reaches_every_start(kind, variant):
    memory, x = layer(kind=kind, variant=variant, start="random"), draw(2, 11, 8)
    found = gradients(memory, x)
    assert all(g.abs().max() > 1e-9 for g in found.values()), {n: float(g.abs().max()) for n, g in found.items()}
    for name, parameter in memory.named_parameters():
        direction = draw(*parameter.shape, seed=7)
        expected, step, losses = (found[name] * direction).sum(), 1e-5, []
        with torch.no_grad():
            for sign in (1, -1):
                parameter.add_(sign * step * direction)
                y, _ = memory(x)
                losses.append((y * draw(*y.shape, seed=3)).sum())
                parameter.sub_(sign * step * direction)
        difference = (losses[0] - losses[1]) / (2 * step)
        torch.testing.assert_close(difference, expected, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_within_one_chunk_only_what_is_read_learns():
    found = gradients(layer(), draw(2, 4, 8))
    silent = {name for name, g in found.items() if not g.any()}
    beside = {f"start.{name}_{part}" for name in ALL[:-1] for part in ("into", "out")}
    assert silent == beside | {"step_bias", "retention_bias"}
    assert not {name for name, g in gradients(layer(), draw(2, 5, 8)).items() if not g.any()} & {"start.key_out"}


def test_from_the_identity_second_layers_learn_first():
    memory = layer(spread=0.0)
    assert not memory.start["key_out"].any()
    silent = {name for name, g in gradients(memory, draw(2, 11, 8)).items() if not g.any()}
    assert {"start.step_into", "start.retention_into"} <= silent
    assert not {f"start.{name}_out" for name in ALL} & silent


# -- stopped gradients -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stop", ["targets", "first-order", "write"])
def test_stopped_gradients_leave_the_forward_pass(stop):
    memory, x = layer(read="running"), draw(2, 11, 8)
    stopped = twin(memory, stop_gradient=stop)
    torch.testing.assert_close(stopped(x)[0], memory(x)[0], rtol=0, atol=0)
    full, cut = gradients(memory, x), gradients(stopped, x)
    assert (full["start.value_out"] - cut["start.value_out"]).abs().max() > 1e-6
    assert torch.equal(full["output.weight"], cut["output.weight"])
    if stop == "write":  # as in code whose writes stand outside the graph
        assert not any(cut[f"start.{name}_out"].any() for name in ALL[:-1])


# -- what else it promises -----------------------------------------------------------------------------------------
def test_boundary_reads_are_blind_inside_a_chunk_running_reads_are_not():
    """Chunks of 16, convolution of width 4: token 32 sees nothing of tokens 17 to 28, counted from 1."""
    for read, blind in (("boundary", True), ("running", False)):
        memory, x = layer(chunk=16, read=read), draw(1, 32, 8).requires_grad_()
        (found,) = torch.autograd.grad(memory(x)[0][0, 31].sum(), x)
        assert found[0, :16].any() and found[0, 28:].abs().amin() > 0
        assert found[0, 16:28].any().item() is not blind


@pytest.mark.parametrize("bias", [-1000.0, -20.0, 20.0, 1000.0])
@pytest.mark.parametrize("read", ["boundary", "running"])
def test_saturated_gates_in_float32_at_long_chunks(bias, read):
    memory = layer(chunk=256, read=read, max_step=0.5)
    with torch.no_grad():
        memory.retention_bias.fill_(bias)
        memory.step_bias.fill_(1000.0)
    x = draw(1, 600, 8)
    exact, single = memory(x)[0], twin(memory).float()
    found = gradients(single, x.float())
    assert all(g.isfinite().all() for g in found.values())
    assert (single(x.float())[0] - exact).abs().max() < 1e-3 * exact.abs().max()


def test_state_bytes_are_the_formula():
    """6 d m + 2 m (d + 1) numbers for d = m = 512 and one head, in float32, and the convolution's three columns."""
    with torch.device("meta"):
        one = SelfModifying(SelfModifyingConfig(512, 1, chunk=1))
        two = SelfModifying(SelfModifyingConfig(512, 1, chunk=64, chunk_others=8, momentum=0.9))
    assert one.state_bytes(10**6) == 8_392_704 + 3 * 512 * 4
    assert two.state_bytes(0, batch_size=2) == 2 * (3 * 8_392_704 + 3 * 512 * 4)


@pytest.mark.parametrize("name", ALL)
def test_a_frozen_memory_stays_and_the_others_move(name):
    memory, x = layer(read="running"), draw(2, 11, 8)
    free, before = memory(x)[0], memory.weights(memory.init_state(2))
    with ablated(memory, frozen=(name,)):
        y, state = memory(x)
    now = memory.weights(state)
    assert torch.equal(now[name]["out"], before[name]["out"]) and torch.equal(now[name]["into"], before[name]["into"])
    assert all((now[other]["out"] - before[other]["out"]).abs().max() > 1e-4 for other in ALL if other != name)
    torch.testing.assert_close(y, twin(memory, adaptive=tuple(n for n in ALL if n != name))(x)[0], **CLOSE)
    assert (y - free).abs().max() > 1e-6
    assert torch.equal(memory(x)[0], free)


def test_traces_say_what_happened():
    memory, x, trace = layer(chunk_others=2), draw(2, 11, 8), Trace()
    with torch.no_grad():
        _, state = memory(x, None, trace)
    now, start = memory.weights(state), memory.weights(memory.init_state(2))
    for name in ALL:
        gone = sum((now[name][p] - start[name][p]).square().sum((-2, -1)) for p in ("into", "out")).sqrt()
        torch.testing.assert_close(trace[f"{name}.drift"][:, -1], gone, **CLOSE)
        assert trace[f"{name}.loss_before"].shape == (2, 11, 2)
    error = trace["key.prediction"] - trace["key.target"]
    first = error[:, 0].square().sum(-1) / 2  # at a boundary the weights as they stand are the anchor
    torch.testing.assert_close(trace["key.loss_before"][:, 0], first, **CLOSE)
    few = Trace(only=["step_size", "key.drift"])
    memory(x, None, few)
    assert few.names() == ["step_size", "key.drift"]


def test_inference_mode_learns_too():
    x = draw(1, 6, 8)
    for path in ("reference", "chunked"):
        memory = layer(path)
        with torch.inference_mode():
            y, _ = memory(x)
        torch.testing.assert_close(y, memory(x)[0], **CLOSE)


def test_a_config_travels_as_plain_values_and_names_its_mistakes():
    config = SelfModifyingConfig(8, 2, variant="adaptive", adaptive=["memory", "step"])
    assert config.moving == ("memory", "step") and not config.self_made
    assert SelfModifyingConfig(**asdict(config)) == config
    assert replace(SelfModifyingConfig(8, 2), variant="plain").moving == ("memory",)
    for wrong, said in (
        (dict(adaptive=("keys",)), "did you mean 'key'"),
        (dict(heads=3), "not a multiple"),
        (dict(max_step=0), "max_step"),
        (dict(momentum=1.0), "momentum"),
        (dict(erase="both"), "per-layer"),
        (dict(chunk_others=0), "chunk_others"),
    ):
        with pytest.raises(CourseError, match=f"(?i){said}"):
            SelfModifyingConfig(**dict(width=8, heads=2) | wrong)
    with pytest.raises(CourseError, match="gain"):
        SharedGain(SelfModifyingConfig(8, 2))
    with pytest.raises(CourseError, match="frozen memory"):
        ablate(layer(), frozen=("steps",))
