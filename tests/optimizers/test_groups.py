"""Which parameters decay and which are matrices: what the roles of a model make of an optimizer's groups."""

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict

from nl_course.memories import MEMORIES
from nl_course.model import LanguageModel, ModelConfig
from nl_course.optimizers import OPTIMIZERS, build_optimizer
from nl_course.optimizers.groups import former_groups, groups_by_role, groups_by_shape
from nl_course.roles import param_roles
from nl_course.training.checkpoint import load_training, save_training
from nl_course.training.distributed import SINGLE_PROCESS
from nl_course.training.pickled_checkpoint import load_pickled

DEEP = {"norm": True, "bias": True}  # gains and biases of one inner network per head: (h, 1, f)
OPTIONS = dict.fromkeys(("titans", "mac", "mag", "mal"), DEEP) | {
    "latent-attention": dict(kv_rank=6, rope_dim=2, head_dim=4)
}
BY_MATRIX = ("muon", "m3", "delta-momentum", "deep-momentum")


def model_of(memory: str, seed: int = 0, tied: bool = False) -> LanguageModel:
    torch.manual_seed(seed)
    options = OPTIONS.get(memory, {})
    return LanguageModel(
        ModelConfig(vocab=9, width=8, layers=1, heads=2, hidden=6, memory=memory, options=options, tied=tied, conv=2)
    )


def with_gradients(model: nn.Module, seed: int | None) -> None:
    """Random gradients; zeros for no seed."""
    generator = torch.Generator().manual_seed(seed or 0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.zeros_like(parameter) if seed is None else noise


def names_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[set[str]]:
    names = {p: name for name, p in model.named_parameters()}
    return [{names[p] for p in group["params"]} for group in optimizer.param_groups]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("memory", MEMORIES)
def test_only_matrices_embeddings_and_heads_decay(memory, optimizer):
    """Without gradients weight decay is all that moves a parameter, and what does not decay stays to the last bit."""
    model = model_of(memory)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    descent = build_optimizer(optimizer, model, lr=0.1, weight_decay=0.5)
    for _ in range(3):
        with_gradients(model, None)
        descent.step()
    gains = 0
    for name, role in param_roles(model).items():
        now = model.get_parameter(name)
        if role.kind in ("matrix", "embedding", "head"):
            torch.testing.assert_close(now.detach(), 0.95**3 * before[name], rtol=1e-5, atol=1e-7)
        else:
            assert torch.equal(now, before[name]), name
            gains += now.dim() >= 2
    # Most memories have such parameters of two or three axes; a rule by shape would let them decay.
    assert gains or memory in ("attention", "latent-attention", "linear", "retnet")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_parameter_is_in_one_group(optimizer):
    model = model_of("titans")
    model.layers[0].mlp.requires_grad_(False)
    grouped = [name for names in names_of(model, build_optimizer(optimizer, model)) for name in names]
    assert sorted(grouped) == sorted(n for n, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("optimizer", BY_MATRIX)
def test_what_is_no_matrix_is_not_stepped_as_one(optimizer):
    model = model_of("titans")
    groups = dict(zip(("matrices", "stacks", "tables", "others"), build_optimizer(optimizer, model).param_groups))
    names = dict(zip(groups, names_of(model, build_optimizer(optimizer, model))))
    assert names["stacks"] == {f"layers.0.memory.neural.start.W{i}" for i in (1, 2)}
    assert names["tables"] == {"embedding.weight", "head.weight"}
    memory = "layers.0.memory."
    assert names["others"] == {
        "norm.weight",
        *(f"layers.0.{name}.weight" for name in ("conv", "conv_norm", "memory_norm", "mlp_norm")),
        "layers.0.conv.bias",
        *(f"{memory}{name}" for name in ("persistent", "read_norm.weight", "neural.gain", "neural.shift")),
        *(f"{memory}neural.start.b{i}" for i in (1, 2)),
        *(f"{memory}neural.conv_{name}.{part}" for name in ("query", "key", "value") for part in ("weight", "bias")),
        *(f"{memory}neural.{gate}.bias" for gate in ("step", "past", "forget")),
    }
    assert groups["matrices"]["layout"] == "out-in" and groups["stacks"]["layout"] == "in-out"
    for name in ("tables", "others"):
        assert groups[name].get("adam") or groups[name]["layout"] == "vectors"
    assert [
        group["weight_decay"] > 0 for group in build_optimizer(optimizer, model, weight_decay=0.1).param_groups
    ] == [
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("optimizer", ["muon", "m3"])
def test_the_step_of_each_head_has_its_singular_values_near_one(optimizer):
    """Of equal size, at least: M3 divides by the squares of gradients, element by element."""
    model = model_of("titans")
    start = model.layers[0].memory.neural.start["W1"]  # (h, in, out)
    before = start.detach().clone()
    with_gradients(model, 1)
    start.grad[1] *= 1e-3  # flattened to one matrix, this head would hardly move
    build_optimizer(optimizer, model, lr=1.0, weight_decay=0.0).step()
    values = torch.linalg.svdvals((start - before).detach())  # (h, in)
    lengths = values.square().sum(1).sqrt()  # (h,)
    assert lengths[1] == pytest.approx(lengths[0].item(), rel=0.3 if optimizer == "muon" else 1e-4)
    if optimizer == "muon":
        assert (values / values.mean()).min() > 0.5


# -- runs of earlier versions ------------------------------------------------------------------------------------------
def steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        with_gradients(model, step)
        optimizer.step()


def assert_same(model: nn.Module, other: nn.Module) -> None:
    """But for the last bits, which depend on where in memory a matrix lies."""
    for (name, p), q in zip(model.named_parameters(), other.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6, msg=lambda text: f"{name}: {text}")  # noqa: B023


def by_shape(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer as earlier versions built it."""
    kind = OPTIMIZERS[name]
    extra = {"model": model} if name == "dgd" else {}
    return kind(groups_by_shape(kind, model), lr=0.01, weight_decay=0.1, **extra)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_that_was_grouped_by_shape_goes_on_so(name, tmp_path):
    model = model_of("titans")
    unbroken = by_shape(name, model)
    steps(model, unbroken, 1, 4)
    path = tmp_path / "run.safetensors"
    save_training(path, model, unbroken, {"step": 3})
    other = model_of("titans", seed=1)
    resumed = build_optimizer(name, other, lr=0.5)
    with pytest.warns(UserWarning, match="told by shape") as warned:
        load_training(path, other, resumed)
    assert len(warned) == 1
    steps(model, unbroken, 4, 7)
    steps(other, resumed, 4, 7)
    assert_same(model, other)
    # And so does the run of that run, though its file is one of today.
    save_training(path, other, resumed, {"step": 6})
    third = model_of("titans", seed=2)
    with pytest.warns(UserWarning, match="told by shape"):
        load_training(path, third, build_optimizer(name, third))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_of_today_keeps_its_groups(name, tmp_path, recwarn):
    model = model_of("titans")
    unbroken = build_optimizer(name, model, lr=0.01, weight_decay=0.1)
    steps(model, unbroken, 1, 4)
    path = tmp_path / "run.safetensors"
    save_training(path, model, unbroken, {"step": 3})
    other = model_of("titans", seed=1)
    resumed = build_optimizer(name, other, lr=0.5)
    load_training(path, other, resumed)
    steps(model, unbroken, 4, 7)
    steps(other, resumed, 4, 7)
    assert_same(model, other)
    assert not recwarn.list


def test_former_groups_are_offered_only_where_they_are_known():
    model = model_of("titans")
    kind = OPTIMIZERS["adamw"]
    sizes = [len(group["params"]) for group in groups_by_shape(kind, model)]
    assert former_groups(build_optimizer("adamw", model), model, sizes) is not None
    assert former_groups(build_optimizer("adamw", model), model, [sizes[0] - 1, sizes[1] + 1]) is None
    own = kind([{"params": list(model.parameters())}])  # somebody's own groups: nobody knows what is meant
    assert former_groups(own, model, sizes) is None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_where_shape_and_role_agree_the_groups_are_the_former_ones(name):
    """So that runs of a plain transformer, and most recordings, go on without a word."""
    if name in ("delta-momentum", "deep-momentum"):
        pytest.skip("these once took an embedding for a matrix")
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab=9, width=8, layers=2, heads=2, hidden=6))
    now, before = groups_by_role(OPTIMIZERS[name], model), groups_by_shape(OPTIMIZERS[name], model)
    assert [[id(p) for p in group["params"]] for group in now] == [[id(p) for p in g["params"]] for g in before]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_sharded_run_of_an_earlier_version_goes_on_with_the_groups_it_had(tmp_path):
    """Its checkpoint knows parameters by name, so that it would be read into other groups without a word."""
    model = model_of("titans")
    unbroken = by_shape("adamw", model)
    steps(model, unbroken, 1, 4)
    model_tensors, optimizer_tensors = get_state_dict(model, unbroken)
    dcp.save({"model": model_tensors, "optimizer": optimizer_tensors}, checkpoint_id=tmp_path / "old", no_dist=True)
    other = model_of("titans", seed=1)
    resumed = build_optimizer("adamw", other, lr=0.5)
    load_pickled(tmp_path / "old", other, resumed, SINGLE_PROCESS)
    steps(model, unbroken, 4, 7)
    steps(other, resumed, 4, 7)
    assert_same(model, other)
