"""Ablations, each against the inner loop restated by hand; refused, held and undone."""

import copy
import re
from pathlib import Path

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import Trace, build_memory
from nl_course.memories.ablations.pooled import PooledTitans
from nl_course.memories.ablations.switches import (
    Ablation,
    Switches,
    ablate,
    ablated,
    ablation_of,
    restore,
    switched,
)
from nl_course.model import LanguageModel, ModelConfig
from tests.memories import ablation_tools, hope_tools, titans_tools, ttt_tools

CLOSE, GRADIENTS = ttt_tools.CLOSE, dict(rtol=1e-7, atol=1e-8)
X = ttt_tools.draw(2, 7, 8)
MEMORIES = {
    "ttt-linear": (ttt_tools, ablation_tools.ttt, {"kind": "linear", "mini_batch": 3}),
    "ttt-mlp": (ttt_tools, ablation_tools.ttt, {"kind": "mlp", "mini_batch": 3}),
    "lmm": (titans_tools, ablation_tools.titans, {"chunk": 3, "persistent": 0, "max_step": 0.1}),
    "lmm-normed": (
        titans_tools,
        ablation_tools.titans,
        {"chunk": 3, "persistent": 0, "norm": True, "residual": True, "bias": True},
    ),
    "linear": (hope_tools, ablation_tools.modifying, {"kind": "linear", "read": "running", "chunk": 3}),
    "mlp": (hope_tools, ablation_tools.modifying, {"chunk": 3, "momentum": 0.4}),
    "mlp-running": (hope_tools, ablation_tools.modifying, {"chunk": 3, "read": "running"}),
}
ABLATIONS = {
    "usual": Ablation(),
    "steps": Ablation(inner_steps=3),
    "sign": Ablation(sign=-1),
    "key": Ablation(read_with="key"),
    "last": Ablation(last_layer_only=True),
    "rate": Ablation(learning_rate_per_token=False),
    "momentum": Ablation(momentum=False),
    "most": Ablation(2, -1, "key", learning_rate_per_token=False),
    "last-steps": Ablation(inner_steps=2, last_layer_only=True),
    "no-momentum-steps": Ablation(inner_steps=2, momentum=False),
    "last-no-momentum": Ablation(last_layer_only=True, momentum=False, sign=-1),
}
LACKS = {  # what is refused
    "ttt-linear": ("last", "momentum", "last-steps", "no-momentum-steps", "last-no-momentum"),
    "ttt-mlp": ("momentum", "no-momentum-steps", "last-no-momentum"),
    "linear": ("last", "momentum", "last-steps", "no-momentum-steps", "last-no-momentum"),
    "mlp-running": ("momentum", "no-momentum-steps", "last-no-momentum"),
}
HAD = [(memory, name) for memory in MEMORIES for name in ABLATIONS if name not in LACKS.get(memory, ())]


def made(name: str, path: str = "auto", **more):
    tools, _, options = MEMORIES[name]
    return tools.layer(path=path, **options, **more)


def gradients(memory, y, x):
    wanted = [x, *memory.parameters()]
    weight = ttt_tools.draw(*y.shape, seed=3)
    return torch.autograd.grad((y * weight).sum(), wanted, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize(("name", "changed"), HAD)
def test_each_ablation_is_what_it_says_in_both_paths_values_and_gradients(name, changed):
    restated, ablation = MEMORIES[name][1], ABLATIONS[changed]
    memory, x = made(name), X.clone().requires_grad_()
    wanted = restated(memory, x, ablation)
    slopes = gradients(memory, wanted, x)
    for path in ("auto", "reference"):
        memory, x = made(name, path), X.clone().requires_grad_()
        ablate(memory, ablation)
        y, _ = memory(x)
        torch.testing.assert_close(y, wanted, **CLOSE)
        for one, other in zip(gradients(memory, y, x), slopes, strict=True):
            torch.testing.assert_close(one, other, **GRADIENTS)
    if changed != "usual" and (name, changed) != ("mlp", "steps"):
        assert not torch.allclose(wanted, made(name)(X)[0], rtol=1e-4, atol=1e-4), "the ablation does nothing"


@pytest.mark.parametrize(("name", "changed"), HAD)
def test_any_split_of_a_text_gives_the_same_and_the_state_is_a_value(name, changed, tmp_path):
    memory, ablation = made(name), ABLATIONS[changed]
    ablate(memory, ablation)
    whole, after = memory(X)
    at_chunk_ends, anywhere = ([3, 3, 1], [6, 1], [3, 4]), ([1] * 7, [2, 5], [4, 1, 2])
    for split in at_chunk_ends if ablation.inner_steps > 1 else anywhere:
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
    with ablated(memory, inner_steps=4):
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
    with ablated(memory, sign=-1):
        _, state = memory(X[:, :1])
        trace = Trace()
        memory(X[:, :1], None, trace)
    k, eta, alpha = (trace[name][:, 0] for name in ("key", "step_size", "retention"))
    target, start = trace["memory.target"][:, 0], memory.start["memory_out"]
    wanted = alpha[..., None, None] * start - eta[..., None, None] * k[..., :, None] * target[..., None, :]
    torch.testing.assert_close(memory.weights(state)["memory"]["out"], wanted, **CLOSE)


@pytest.mark.parametrize("name", ["ttt-mlp", "lmm", "mlp-running"])
def test_traces_tell_of_the_ablated_memory(name):
    memory = made(name)
    prefix = "memory." if name == "mlp-running" else ""
    for ablation in (Ablation(sign=-1), Ablation(last_layer_only=True)):
        with ablated(memory, ablation):
            trace = Trace()
            memory(X, None, trace)
            after, before = trace[prefix + "loss_after"], trace[prefix + "loss_before"]
            if name != "mlp-running":
                read = trace["start"] - torch.einsum("bths,bshf->bthf", trace["weights"], trace["error"])
                torch.testing.assert_close(read, trace["read"], **CLOSE)
            if name == "ttt-mlp":  # one pair, nothing forgotten: its own loss goes up or down
                first = after[:, 0] > before[:, 0]
                assert first.all() if ablation.sign == -1 else not first.any()


@pytest.mark.parametrize("name", ["ttt-mlp", "lmm", "mlp-running"])
def test_several_steps_leave_the_traces_that_need_no_single_token(name):
    memory = made(name)
    query, followed = ("query", "memory.loss_after") if name == "mlp-running" else ("q", "loss_after")
    with ablated(memory, inner_steps=3):
        trace = Trace((query,))
        memory(X, None, trace)
        assert trace[query].shape[:2] == X.shape[:2]
        with pytest.raises(CourseError, match="no traces that follow it by token"):
            memory(X, None, Trace((followed,)))


@pytest.mark.parametrize("kind", ["mac", "mag", "mal"])
def test_the_hybrids_obey_through_their_neural_memory(kind):
    memory = build_memory(kind, 8, 2, chunk=3, persistent=3, max_step=0.1).double()
    with torch.no_grad():
        memory.neural.step.weight.mul_(20)
    plain = memory(X)[0]
    for name, ablation in ABLATIONS.items():
        with ablated(memory, ablation):
            y, _ = memory(X)
            state, answers = None, []
            for piece in X.split([3, 4] if ablation.inner_steps > 1 else [2, 3, 2], dim=1):
                z, state = memory(piece, state)
                answers.append(z)
            torch.testing.assert_close(torch.cat(answers, dim=1), y, **CLOSE)
        assert torch.equal(y, plain) == (name == "usual"), name
    assert torch.equal(memory(X)[0], plain)


@pytest.mark.parametrize("kind", ["mac", "mag", "mal"])
def test_parts_of_a_hybrid_are_left_out_alone_and_with_a_changed_inner_loop(kind):
    model = LanguageModel(ModelConfig(16, 8, 2, 2, 8, kind, {"chunk": 3, "max_step": 0.1}))
    for layer in model.layers:  # MAC's begins at zero, where nothing is lost without it
        torch.nn.init.normal_(layer.memory.attention.output.weight)
    tokens = torch.arange(12)[None]
    plain = model(tokens)[0]
    with ablated(model, without=("attention",)):
        without, _ = model(tokens)
        assert [ablation_of(layer.memory).without for layer in model.layers] == [("attention",)] * 2
        assert not ablation_of(model.layers[0].memory.neural).changed
        with ablated(model, without=("attention",), sign=-1):
            assert not torch.equal(model(tokens)[0], without)
        assert torch.equal(model(tokens)[0], without)
    assert torch.equal(model(tokens)[0], plain) and not torch.equal(plain, without)
    with pytest.raises(CourseError, match=r"part 'memry'.*Did you mean 'memory'"):
        ablate(model, without=("memry",))
    with pytest.raises(CourseError, match="no parts beside its memory"):
        ablate(made("lmm"), without=("memory",))


def test_a_model_is_ablated_and_restored_also_after_an_error():
    model = LanguageModel(ModelConfig(16, 8, 2, 2, 8, "ttt-mlp"))
    layers = [layer.memory for layer in model.layers]
    tokens = torch.arange(12)[None]
    plain = model(tokens)[0]
    ablate(model, read_with="key")
    kept = model(tokens)[0]
    with ablated(model, sign=-1) as same:
        assert same is model and [ablation_of(layer).sign for layer in layers] == [-1, -1]
    with pytest.raises(CourseError, match="token"), ablated(model, sign=-1):
        model(tokens + 100)
    assert torch.equal(model(tokens)[0], kept) and not torch.equal(kept, plain)
    assert [ablation_of(layer).read_with for layer in layers] == ["key", "key"]
    restore(model)
    assert torch.equal(model(tokens)[0], plain) and ablation_of(layers[0]) == Ablation()


@pytest.mark.parametrize("name", MEMORIES)
def test_nothing_is_left_on_a_memory(name):
    memory = made(name)
    before = dict(vars(memory)), list(memory.state_dict())
    with ablated(memory, sign=-1, read_with="key"):
        assert list(memory.state_dict()) == before[1]
    assert (dict(vars(memory)), list(memory.state_dict())) == before


@pytest.mark.parametrize("name", MEMORIES)
def test_a_copy_of_an_ablated_memory_is_one_of_its_own(name):
    memory = made(name)
    ablate(memory, sign=-1)
    wanted, twin = memory(X)[0], copy.deepcopy(memory)
    with torch.no_grad():
        for p in memory.parameters():
            p.zero_()
    restore(memory)
    torch.testing.assert_close(twin(X)[0], wanted, rtol=0, atol=0)


def test_an_ablation_holds_while_a_model_is_trained():
    """Two steps of the optimizer: as with the inner loop restated, and not as without an ablation."""

    def trained(ablation: Ablation, layer) -> torch.Tensor:
        memory = made("ttt-mlp")
        ablate(memory, Ablation() if layer else ablation)
        optimizer = torch.optim.SGD(memory.parameters(), lr=0.1)
        for _ in range(2):
            y = layer(memory, X, ablation) if layer else memory(X)[0]
            optimizer.zero_grad()
            y.square().mean().backward()
            optimizer.step()
        return memory.start["W1"].detach()

    ablation = ABLATIONS["last-steps"]
    torch.testing.assert_close(trained(ablation, None), trained(ablation, ablation_tools.ttt), **CLOSE)
    assert not torch.allclose(trained(ablation, None), trained(Ablation(), None), **CLOSE)


@pytest.mark.parametrize(("name", "changed"), [(m, s) for m, every in LACKS.items() for s in every])
def test_an_ablation_that_a_memory_lacks_is_refused_and_changes_nothing(name, changed):
    memory = made(name)
    with pytest.raises(CourseError, match=r"has no ablation '(last_layer_only|momentum)'"):
        ablate(memory, ABLATIONS[changed])
    assert ablation_of(memory) == Ablation()
    with pytest.raises(CourseError), ablated(memory, ABLATIONS[changed]):
        pass
    assert ablation_of(memory) == Ablation()


@pytest.mark.parametrize("name", ["ttt-mlp", "titans", "mac", "mag", "mal", "self-modifying"])
def test_an_ablated_memory_that_has_learned_can_be_copied(name):
    """No graph of the last reading hangs on it; and the copy is ablated by itself."""
    options = {"mac": "attention", "mag": "memory", "mal": "attention"}
    ablation = {"without": (options[name],)} if name in options else {"sign": -1}
    memory = build_memory(name, 8, 2)
    x = torch.randn(1, 5, 8, requires_grad=True)
    with ablated(memory, **ablation):
        memory.init_state(1)
        copy.deepcopy(memory)
        y, _ = memory(x)
        twin = copy.deepcopy(memory)
        torch.testing.assert_close(twin(x)[0], y)
    if name == "titans":
        with pytest.raises(CourseError, match=r"no inner loop of its own .* ask `\.neural`"):
            ablation_of(memory)
        memory, twin = memory.neural, twin.neural
    assert ablation_of(memory) == Ablation() and ablation_of(twin).changed


@pytest.mark.parametrize("name", ["titans", "mag", "mal"])
def test_several_steps_and_persistent_tokens_that_leave_a_chunk_open_are_refused_at_once(name):
    memory = build_memory(name, 8, 2, persistent=3, chunk=4)
    with pytest.raises(CourseError, match="3 persistent tokens before it, and its chunks have 4: build it with"):
        ablate(memory, inner_steps=2)
    assert ablation_of(memory.neural) == Ablation()
    for persistent in (0, 4):
        memory = build_memory(name, 8, 2, persistent=persistent, chunk=4)
        with ablated(memory, inner_steps=2):
            assert memory(torch.randn(1, 5, 8))[0].isfinite().all()
    if name != "titans":
        memory = build_memory(name, 8, 2, persistent=3, chunk=4)
        with ablated(memory, inner_steps=2, without=("persistent",)):
            assert memory(torch.randn(1, 5, 8))[0].isfinite().all()
    # In MAC persistent tokens are read and never written.
    with ablated(build_memory("mac", 8, 2, persistent=3, chunk=4), inner_steps=2) as memory:
        assert memory(torch.randn(1, 5, 8))[0].isfinite().all()


def test_bad_input_is_named():
    for bad in ({"inner_steps": 0}, {"inner_steps": 1.5}, {"sign": 0}, {"sign": True}, {"momentum": 1}):
        with pytest.raises(CourseError, match=next(iter(bad))):
            Ablation(**bad)
    with pytest.raises(CourseError, match=r"read_with 'keys'.*Did you mean 'key'"):
        Ablation(read_with="keys")
    with pytest.raises(CourseError, match="no memory with an inner loop"):
        ablate(build_memory("attention", 8, 2), sign=-1)
    with pytest.raises(CourseError, match="must be given as Ablation"):
        ablate(made("ttt-mlp"), {"sign": -1})
    with pytest.raises(CourseError, match="a model or a memory"):
        ablate("ttt", sign=-1)
    with pytest.raises(CourseError, match="momentum"):
        ablate(titans_tools.layer(momentum=False), momentum=False)
    with pytest.raises(CourseError, match="pooled"):
        ablate(titans_tools.layer(kind=PooledTitans), inner_steps=2)
    with pytest.raises(CourseError, match="gain"):
        ablate(hope_tools.by_gain(hope_tools.layer(kind="linear")), inner_steps=2)
    with pytest.raises(CourseError, match="one memory"):
        ablate(made("ttt-mlp"), frozen=("key",))
    with pytest.raises(CourseError, match=r"frozen memory 'keys'.*Did you mean 'key'"):
        ablate(made("mlp"), frozen=("keys",))
    with pytest.raises(CourseError, match="tuple of names"):
        Ablation(frozen="key")


def test_compiled_models_are_refused():
    memory = made("ttt-mlp")
    with pytest.raises(CourseError, match="compiled"):
        ablate(torch.compile(memory, backend="eager"), sign=-1)
    memory.compile(backend="eager")
    with pytest.raises(CourseError, match="compiled"):
        ablate(memory, sign=-1)


@pytest.mark.parametrize("name", ["ttt-mlp", "lmm", "mlp-running"])
def test_inner_steps_do_not_change_inside_a_chunk(name):
    memory = made(name)
    _, one = memory(X[:, :2])
    _, whole = memory(X[:, :3])
    with ablated(memory, inner_steps=2):
        with pytest.raises(CourseError, match="whole or cut where a chunk ends"):
            memory(X[:, 2:], one)
        memory(X[:, 3:], whole)
        _, several = memory(X[:, :2])
        with pytest.raises(CourseError, match="whole or cut where a chunk ends"):
            memory(X[:, 2:], several)


def test_momentum_left_out_inside_a_text_begins_from_nothing_when_it_is_back():
    memory = made("lmm")
    _, state = memory(X[:, :3])
    with ablated(memory, momentum=False):
        _, off = memory(X[:, 3:], state)
        assert not any(w.any() for w in off.neural.momentum.values())
        assert memory.state_bytes(7, 2) == off.nbytes
    _, on = memory(X[:, :3], off)
    assert on.neural.momentum.keys() == state.neural.momentum.keys()
    assert all(w.any() for w in on.neural.momentum.values())


@pytest.mark.parametrize("name", MEMORIES)
def test_a_state_keeps_its_form_and_size(name):
    memory = made(name)
    for changed, ablation in ABLATIONS.items():
        if changed not in LACKS.get(name, ()):
            with ablated(memory, ablation):
                for tokens in range(1, 5):
                    assert memory(X[:, :tokens])[1].nbytes == memory.state_bytes(tokens, 2)


def test_names_of_before_still_work():
    memory = made("ttt-mlp")
    with ablated(memory, learning_rate_per_token=False):
        wanted, _ = memory(X)
    with switched(memory, Switches(per_token_rate=False)):
        assert torch.equal(memory(X)[0], wanted)


CORE = Path(__file__).parents[2] / "nl_course" / "memories"
NAMES = r"ablat|switch|sceptic|doubt|inner_steps|more_steps|last_only|last_layer|per_token|read_with|_frozen|freeze"


def test_no_memory_knows_of_ablations():
    """Nothing in the memories themselves says any of these names."""
    files = [CORE / "base.py"]
    for package in ("attention", "common", "hope", "linear", "titans", "ttt"):
        files += sorted((CORE / package).glob("*.py"))
    found = []
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            if re.search(NAMES, line, re.IGNORECASE) or re.search(r"\bopen\b *[:=]", line):
                found.append(f"{file.name}: {line.strip()}")
    assert not found, "\n".join(found)
