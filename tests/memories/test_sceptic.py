"""The sceptic's switches, each against the inner loop restated by hand; refused, obeyed and undone."""

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import Trace, build_memory
from nl_course.memories.ablations.switches import Switches, switch, switched
from nl_course.model import LanguageModel, ModelConfig
from tests.memories import hope_tools, sceptic_tools, titans_tools, ttt_tools

CLOSE, GRADIENTS = ttt_tools.CLOSE, dict(rtol=1e-7, atol=1e-8)
X = ttt_tools.draw(2, 7, 8)
MEMORIES = {
    "ttt-linear": (ttt_tools, sceptic_tools.ttt, {"kind": "linear", "mini_batch": 3}),
    "ttt-mlp": (ttt_tools, sceptic_tools.ttt, {"kind": "mlp", "mini_batch": 3}),
    "lmm": (titans_tools, sceptic_tools.titans, {"chunk": 3, "persistent": 0, "max_step": 0.1}),
    "lmm-normed": (
        titans_tools,
        sceptic_tools.titans,
        {"chunk": 3, "persistent": 0, "norm": True, "residual": True, "bias": True},
    ),
    "linear": (hope_tools, sceptic_tools.modifying, {"kind": "linear", "read": "running", "chunk": 3}),
    "mlp": (hope_tools, sceptic_tools.modifying, {"chunk": 3, "momentum": 0.4}),
    "mlp-running": (hope_tools, sceptic_tools.modifying, {"chunk": 3, "read": "running"}),
}
SWITCHES = {
    "usual": Switches(),
    "steps": Switches(inner_steps=3),
    "sign": Switches(sign=-1),
    "key": Switches(read_with="key"),
    "last": Switches(last_layer_only=True),
    "rate": Switches(per_token_rate=False),
    "momentum": Switches(momentum=False),
    "most": Switches(2, -1, "key", per_token_rate=False),
    "last-steps": Switches(inner_steps=2, last_layer_only=True),
    "no-momentum-steps": Switches(inner_steps=2, momentum=False),
}
LACKS = {  # what is refused
    "ttt-linear": ("last", "momentum", "last-steps", "no-momentum-steps"),
    "ttt-mlp": ("momentum", "no-momentum-steps"),
    "linear": ("last", "momentum", "last-steps", "no-momentum-steps"),
    "mlp-running": ("momentum", "no-momentum-steps"),
}
HAD = [(memory, name) for memory in MEMORIES for name in SWITCHES if name not in LACKS.get(memory, ())]


def made(name: str, path: str = "auto", **more):
    tools, _, options = MEMORIES[name]
    return tools.layer(path=path, **options, **more)


def gradients(memory, y, x):
    wanted = [x, *memory.parameters()]
    weight = ttt_tools.draw(*y.shape, seed=3)
    return torch.autograd.grad((y * weight).sum(), wanted, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize(("name", "switches"), HAD)
def test_each_switch_is_what_it_says_in_both_paths_values_and_gradients(name, switches):
    restated, turned = MEMORIES[name][1], SWITCHES[switches]
    memory, x = made(name), X.clone().requires_grad_()
    wanted = restated(memory, x, turned)
    slopes = gradients(memory, wanted, x)
    for path in ("auto", "reference"):
        memory, x = made(name, path), X.clone().requires_grad_()
        switch(memory, turned)
        y, _ = memory(x)
        torch.testing.assert_close(y, wanted, **CLOSE)
        for one, other in zip(gradients(memory, y, x), slopes, strict=True):
            torch.testing.assert_close(one, other, **GRADIENTS)
    if switches != "usual" and (name, switches) != ("mlp", "steps"):
        assert not torch.allclose(wanted, made(name)(X)[0], rtol=1e-4, atol=1e-4), "the switch does nothing"


@pytest.mark.parametrize(("name", "switches"), HAD)
def test_any_split_of_a_text_gives_the_same_and_the_state_is_a_value(name, switches, tmp_path):
    memory = made(name)
    switch(memory, SWITCHES[switches])
    whole, after = memory(X)
    for split in ([1] * 7, [2, 5], [4, 1, 2]):
        state, answers = memory.init_state(2), []
        for piece in X.split(split, dim=1):
            state.save(tmp_path / "state.safetensors")
            state = type(state).load(tmp_path / "state.safetensors")
            y, state = memory(piece, state)
            answers.append(y)
        torch.testing.assert_close(torch.cat(answers, dim=1), whole, **CLOSE)
        found = state.tensors()
        assert found.keys() == after.tensors().keys()
        for part, tensor in after.tensors().items():
            torch.testing.assert_close(found[part], tensor, **CLOSE)
    changed = X.clone()
    changed[:, 5:] += 1  # what comes later is in nothing
    torch.testing.assert_close(memory(changed)[0][:, :5], whole[:, :5], **CLOSE)
    with torch.inference_mode():
        torch.testing.assert_close(memory(X)[0], whole, **CLOSE)


def test_several_steps_on_a_chunk_are_steps_of_gradient_descent_on_its_loss():
    memory = made("ttt-linear", position_factor="sum")
    trace = Trace(("k", "v", "rate"))
    with switched(memory, Switches(inner_steps=4)):
        _, state = memory(X[:, :3], None, trace)
    k, v, rate = (trace[name].transpose(1, 2) for name in ("k", "v", "rate"))
    W = {n: w.detach().expand(2, -1, -1, -1) for n, w in memory.start.items()}
    for _ in range(4):
        W = {n: w.detach().requires_grad_() for n, w in W.items()}
        loss = (rate * memory.inner.inner_loss(W, k, v, memory.norm)).sum()
        W = {n: w - g for (n, w), g in zip(W.items(), torch.autograd.grad(loss, list(W.values())))}
    for name, w in memory.weights(state).items():
        torch.testing.assert_close(w, W[name], **CLOSE)


def test_climbing_a_linear_self_modifying_memory_leaves_minus_the_target():
    """Chunks of one token: the erase and the step's own -k M cancel, alpha M - eta k^T v^ is left."""
    memory = hope_tools.layer(kind="linear", chunk=1, read="running")
    with switched(memory, Switches(sign=-1)):
        _, state = memory(X[:, :1])
        trace = Trace()
        memory(X[:, :1], None, trace)
    k, eta, alpha = (trace[name][:, 0] for name in ("key", "step_size", "retention"))
    target, start = trace["memory.target"][:, 0], memory.start["memory_out"]
    wanted = alpha[..., None, None] * start - eta[..., None, None] * k[..., :, None] * target[..., None, :]
    torch.testing.assert_close(memory.weights(state)["memory"]["out"], wanted, **CLOSE)


@pytest.mark.parametrize("name", ["ttt-mlp", "lmm", "mlp-running"])
def test_traces_tell_of_the_switched_memory(name):
    memory = made(name)
    prefix = "memory." if name == "mlp-running" else ""
    for turned in (Switches(sign=-1), Switches(inner_steps=3), Switches(last_layer_only=True)):
        with switched(memory, turned):
            trace = Trace()
            memory(X, None, trace)
            after, before = trace[prefix + "loss_after"], trace[prefix + "loss_before"]
            if turned.inner_steps > 1:
                assert "weights" not in trace and "error" not in trace
            elif name != "mlp-running" and turned.sign == 1:
                read = trace["start"] - torch.einsum("bths,bshf->bthf", trace["weights"], trace["error"])
                torch.testing.assert_close(read, trace["read"], **CLOSE)
            if name == "ttt-mlp":  # one pair, nothing forgotten: its own loss goes up or down
                first = after[:, 0] > before[:, 0]
                assert first.all() if turned.sign == -1 else not first.any()


@pytest.mark.parametrize("kind", ["mac", "mag", "mal"])
def test_the_hybrids_obey_through_their_neural_memory(kind):
    memory = build_memory(kind, 8, 2, chunk=3, max_step=0.1).double()
    with torch.no_grad():
        memory.neural.step.weight.mul_(20)
    plain = memory(X)[0]
    for name, turned in SWITCHES.items():
        with switched(memory, turned):
            y, _ = memory(X)
            state, answers = None, []
            for piece in X.split([2, 3, 2], dim=1):
                z, state = memory(piece, state)
                answers.append(z)
            torch.testing.assert_close(torch.cat(answers, dim=1), y, **CLOSE)
        assert torch.equal(y, plain) == (name == "usual"), name
    assert torch.equal(memory(X)[0], plain)


def test_a_model_is_switched_and_restored_also_after_an_error():
    model = LanguageModel(ModelConfig(16, 8, 2, 2, 8, "ttt-mlp"))
    layers = [layer.memory for layer in model.layers]
    tokens = torch.arange(12)[None]
    plain = model(tokens)[0]
    switch(model, Switches(read_with="key"))
    kept = model(tokens)[0]
    with switched(model, Switches(sign=-1)) as same:
        assert same is model and [layer.doubts.sign for layer in layers] == [-1, -1]
    with pytest.raises(CourseError, match="token"), switched(model, Switches(sign=-1)):
        model(tokens + 100)
    assert torch.equal(model(tokens)[0], kept) and not torch.equal(kept, plain)
    switch(model, Switches())
    assert torch.equal(model(tokens)[0], plain)


@pytest.mark.parametrize(("name", "switches"), [(m, s) for m, every in LACKS.items() for s in every])
def test_a_switch_that_a_memory_lacks_is_refused_and_changes_nothing(name, switches):
    memory = made(name)
    with pytest.raises(CourseError, match=r"has no switch '(last_layer_only|momentum)'"):
        switch(memory, SWITCHES[switches])
    assert memory.doubts == Switches()
    with pytest.raises(CourseError), switched(memory, SWITCHES[switches]):
        pass
    assert memory.doubts == Switches()


def test_bad_input_is_named():
    for bad in ({"inner_steps": 0}, {"inner_steps": 1.5}, {"sign": 0}, {"sign": True}, {"momentum": 1}):
        with pytest.raises(CourseError, match=next(iter(bad))):
            Switches(**bad)
    with pytest.raises(CourseError, match=r"read_with 'keys'.*Did you mean 'key'"):
        Switches(read_with="keys")
    with pytest.raises(CourseError, match="no memory with an inner loop"):
        switch(build_memory("attention", 8, 2), Switches(sign=-1))
    with pytest.raises(CourseError, match="must be Switches"):
        switch(made("ttt-mlp"), {"sign": -1})
    with pytest.raises(CourseError, match="a model or a memory"):
        switch("ttt", Switches())
    with pytest.raises(CourseError, match="momentum"):
        switch(titans_tools.layer(momentum=False), Switches(momentum=False))
    with pytest.raises(CourseError, match="pooled"):
        switch(titans_tools.layer(gates="pooled"), Switches(inner_steps=2))
    with pytest.raises(CourseError, match="gain"):
        switch(hope_tools.layer("gain", kind="linear"), Switches(inner_steps=2))


@pytest.mark.parametrize("name", ["ttt-mlp", "lmm", "mlp-running"])
def test_inner_steps_do_not_change_inside_a_chunk(name):
    memory = made(name)
    _, one = memory(X[:, :2])
    _, whole = memory(X[:, :3])
    with switched(memory, Switches(inner_steps=2)):
        with pytest.raises(CourseError, match="not written with several inner steps"):
            memory(X[:, 2:], one)
        memory(X[:, 3:], whole)
        _, several = memory(X[:, :2])
    with pytest.raises(CourseError, match="was written with several inner steps"):
        memory(X[:, 2:], several)


def test_momentum_switched_inside_a_text_begins_from_nothing():
    memory = made("lmm")
    _, state = memory(X[:, :3])
    with switched(memory, Switches(momentum=False)):
        _, off = memory(X[:, 3:], state)
        assert off.neural.momentum == {} and memory.init_state(1).neural.momentum == {}
        assert memory.state_bytes(7, 2) == off.nbytes
    _, on = memory(X[:, :3], off)
    assert on.neural.momentum.keys() == state.neural.momentum.keys()


def test_state_bytes_of_ttt_count_an_open_mini_batch():
    memory = made("ttt-mlp")
    with switched(memory, Switches(inner_steps=2)):
        for tokens in range(1, 5):
            assert memory(X[:, :tokens])[1].nbytes == memory.state_bytes(tokens, 2)
