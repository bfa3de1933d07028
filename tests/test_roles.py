"""What every parameter of the course is: said by the module that makes it, complete, and what its shape cannot say."""

import copy
from collections import Counter
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from nl_course.memories import MEMORIES, Memory, build_memory
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import LevelConfig, NestedConfig, NestedLanguageModel
from nl_course.nested.presets import PRESETS as NESTED
from nl_course.presets import PRESETS
from nl_course.roles import (
    BIAS,
    EMBEDDING,
    GAIN,
    HEAD,
    INTO_STREAM,
    LAYOUTS,
    MATRIX,
    PER_HEAD,
    RATE,
    TAPS,
    TOKENS,
    VECTOR,
    Role,
    Roles,
    param_roles,
    role_by_shape,
)
from nl_course.suite.template import MyConfig, MyMemory

LATENT = dict(kv_rank=6, rope_dim=2, head_dim=4)
# Options with which a memory has other parameters than by default.
OPTIONS = [
    ("attention", {}),
    ("attention", dict(kv_heads=1, qk_norm=True)),
    ("latent-attention", LATENT),
    ("latent-attention", dict(**LATENT, q_rank=4, value_dim=3)),
    ("linear", {}),
    ("linear", dict(conv=3, gate=True)),
    ("retnet", dict(conv=3, gate=False)),
    ("retnet", {}),
    ("delta", {}),
    ("delta", dict(gate=True, conv=0)),
    ("gated-delta", {}),
    ("gated-delta", dict(gate=False)),
    ("gated-delta", dict(key_heads=1)),
    ("kda", {}),
    ("kda", dict(gate=False, lower_bound=-5.0)),
    ("ttt-linear", {}),
    ("ttt-linear", dict(backbone="transformer", position_factor="sum", norm=False, bias=False)),
    ("ttt-mlp", {}),
    ("ttt-mlp", dict(share_qk=False, gate=True)),
    ("titans", {}),
    ("titans", dict(layers=3, norm=True, bias=True, residual=True, conv=0)),
    ("titans", dict(layers=1, persistent=0, momentum=False, retention=False)),
    ("self-modifying", {}),
    ("self-modifying", dict(kind="linear", adaptive_query=True, conv=0)),
    ("self-modifying", dict(variant="adaptive", retention=False)),
    ("self-modifying", dict(variant="plain", kind="linear")),
    ("cached", {}),
    ("cached", dict(memory="titans", gate="mean")),
    *((name, options) for name in ("mac", "mag", "mal") for options in ({}, dict(norm=True, bias=True, persistent=0))),
]
# What a parameter is by the last part of its name, written down a second time and by hand.
BY_LAST_NAME = {
    "gain": GAIN,
    "shift": BIAS,
    "position_offset": RATE,
    "log_rate": RATE,
    "interval_bias": BIAS,
    "step_bias": BIAS,
    "retention_bias": BIAS,
    "persistent": TOKENS,
    "bias": BIAS,
}


def memory_of(name: str, options: dict) -> Memory:
    return build_memory(name, 8, 2, **options)


def test_every_memory_is_here():
    assert {name for name, _ in OPTIONS} == set(MEMORIES)


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(OPTIONS)])
def test_every_parameter_of_a_memory_has_its_role(name, options):
    memory = memory_of(name, options)
    roles = param_roles(memory)
    assert list(roles) == [n for n, _ in memory.named_parameters()]
    for path, parameter in memory.named_parameters():
        role, last = roles[path], path.rpartition(".")[2]
        assert role.layout in LAYOUTS
        if last in BY_LAST_NAME:
            assert role == BY_LAST_NAME[last], path
        elif ".start." in f".{path}":
            # Biases of an inner model are (h, 1, out), and so is no matrix of it.
            assert role == (BIAS if last.startswith("b") else PER_HEAD), path
            assert parameter.dim() == 3
        elif ".number." in f".{path}" or (".conv" in f".{path}" and last == "weight"):
            assert role == TAPS, path
        elif parameter.dim() == 1:
            assert role == GAIN, path
        else:
            assert role in (MATRIX, INTO_STREAM) and parameter.dim() == 2, path


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(OPTIONS)])
def test_a_matrix_of_a_memory_writes_into_the_stream_and_it_is_the_last_one(name, options):
    """With zeros in it nothing comes out, and what comes out is linear in it: no other matrix has both. MAL has
    two. It is linear in attention's alone, since its memory's goes through attention too."""
    torch.manual_seed(0)
    memory, x = memory_of(name, options).double(), torch.randn(1, 5, 8, dtype=torch.float64)
    last, *others = sorted(n for n, role in param_roles(memory).items() if role.into_stream)
    assert others == (["output.weight"] if name == "mal" else [])
    with torch.no_grad():
        if others:  # what it writes by itself is not attention's
            matrix = memory.get_parameter(last)
            kept = matrix.clone()
            matrix.zero_()
            assert memory(x)[0].abs().max() > 1e-6
            memory.get_parameter(*others).zero_()
            matrix.copy_(kept)
        y, _ = memory(x)
        assert y.abs().max() > 1e-6
        memory.get_parameter(last).mul_(3)
        torch.testing.assert_close(memory(x)[0], 3 * y, rtol=1e-9, atol=1e-12)
        memory.get_parameter(last).zero_()
        assert memory(x)[0].abs().max() == 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("conv", [0, 3])
def test_a_language_model_is_complete(tied, conv):
    model = LanguageModel(ModelConfig(vocab=9, width=8, layers=2, heads=2, hidden=6, conv=conv, tied=tied))
    roles = param_roles(model)
    assert list(roles) == [n for n, _ in model.named_parameters()]
    assert roles["embedding.weight"] == EMBEDDING
    assert roles.get("head.weight") == (None if tied else HEAD)
    assert [n for n, role in roles.items() if role.into_stream] == [
        name for i in range(2) for name in (f"layers.{i}.memory.output.weight", f"layers.{i}.mlp.down.weight")
    ]
    assert roles["layers.0.memory_norm.weight"] == GAIN


@pytest.mark.parametrize("name", [*PRESETS, *NESTED])
def test_every_preset_is_complete(name):
    """Of each the last block, which has all kinds of parts that its model has."""
    with torch.device("meta"):
        if name in PRESETS:
            model = LanguageModel(replace(PRESETS[name].config, layers=1))
        else:
            config = NESTED[name].config
            model = NestedLanguageModel(replace(config, layers=1, levels=config.levels[-1:]))
    roles = param_roles(model)
    assert list(roles) == [n for n, _ in model.named_parameters()]
    kinds = Counter(role.kind for role in roles.values())
    assert kinds["matrix"] > kinds["embedding"] == 1 and kinds["gain"] and not kinds["vector"]


def test_a_model_with_levels_side_by_side_is_complete():
    levels = (LevelConfig(4, 2), LevelConfig(4, 0))
    model = NestedLanguageModel(NestedConfig(9, 8, 1, 2, levels, variant="independent", tied=False))
    roles = param_roles(model)
    assert roles["layers.0.shares"] == GAIN and roles["head.weight"] == HEAD
    assert roles["layers.0.levels.0.first"] == PER_HEAD and roles["layers.0.levels.0.log_rate"] == RATE
    assert roles["layers.0.levels.1.last"] == Role("matrix", "in-out", into_stream=True)


def test_roles_are_the_same_after_a_copy_and_after_loading():
    memory = memory_of("titans", dict(norm=True, bias=True))
    twin = copy.deepcopy(memory)
    twin.load_state_dict(memory.state_dict(), assign=True)
    assert param_roles(twin) == param_roles(memory)


# -- what is not the course's ------------------------------------------------------------------------------------------
class Own(nn.Module):
    """A learner's module: layers of torch, and parameters of which it says nothing, or something."""

    param_roles: ClassVar[Roles] = {"mine": RATE, "layers.0.weight": INTO_STREAM}

    def __init__(self):
        super().__init__()
        self.mine = nn.Parameter(torch.zeros(3, 3))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.plain = nn.Parameter(torch.zeros(4, 3))
        self.heads = nn.Parameter(torch.zeros(2, 4, 3))
        self.gains = nn.Parameter(torch.zeros(2, 1, 3))
        self.rows = nn.ParameterList([torch.zeros(3), torch.zeros(1, 3)])
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3, bias=False))
        self.depthwise = nn.Conv1d(3, 3, 2, groups=3)
        self.conv = nn.Conv2d(3, 5, 2)
        self.batch_norm = nn.BatchNorm1d(3)


def test_layers_of_torch_go_by_type_and_the_rest_by_what_is_said_or_by_shape():
    assert param_roles(Own()) == {
        "mine": RATE,
        "scale": VECTOR,
        "plain": MATRIX,
        "heads": PER_HEAD,
        "gains": VECTOR,
        "rows.0": VECTOR,
        "rows.1": VECTOR,
        "layers.0.weight": INTO_STREAM,  # said by the module around it, which knows where it stands
        "layers.0.bias": BIAS,
        "layers.1.weight": GAIN,
        "layers.1.bias": BIAS,
        "layers.2.weight": MATRIX,
        "depthwise.weight": TAPS,
        "depthwise.bias": BIAS,
        "conv.weight": MATRIX,
        "conv.bias": BIAS,
        "batch_norm.weight": GAIN,
        "batch_norm.bias": BIAS,
    }


def test_a_matrix_that_is_also_an_embedding_is_an_embedding():
    for first in (True, False):
        model = nn.Module()
        parts = {"head": nn.Linear(3, 5, bias=False), "embed": nn.Embedding(5, 3)}
        parts["head"].weight = parts["embed"].weight
        for name in sorted(parts, reverse=first):
            model.add_module(name, parts[name])
        (name,) = [n for n, _ in model.named_parameters()]
        assert param_roles(model) == {name: EMBEDDING}


def test_a_subclass_says_only_what_it_adds():
    class Child(type(memory_of("gated-delta", {}))):
        param_roles: ClassVar[Roles] = {"more": TOKENS}

    child = Child(memory_of("gated-delta", {}).config)
    child.more = nn.Parameter(torch.zeros(2, 8))
    roles = param_roles(child)
    assert roles["more"] == TOKENS and roles["log_rate"] == RATE and roles["output.weight"] == INTO_STREAM


def test_a_module_of_the_course_must_say_it():
    memory = memory_of("linear", {})
    memory.unsaid = nn.Parameter(torch.zeros(2, 8))
    with pytest.raises(TypeError, match="LinearAttention says no role for its parameter 'unsaid'"):
        param_roles(memory)


def test_a_vector_is_no_matrix_even_if_it_is_said():
    model = nn.Module()
    model.inner = Own()
    model.inner.layers[0] = nn.LayerNorm(3)
    with pytest.raises(TypeError, match=r"inner.layers.0.weight is declared a matrix and has shape \(3,\)"):
        param_roles(model)


def test_the_template_says_its_roles():
    roles = param_roles(MyMemory(MyConfig(8, 2)))
    assert roles["retention"] == RATE and roles["output.weight"] == INTO_STREAM and roles["value.weight"] == MATRIX


@pytest.mark.parametrize("shape", [(), (3,), (1, 3), (3, 1), (2, 1, 3), (2, 3, 1)])
def test_what_has_no_two_axes_of_several_numbers_is_a_vector(shape):
    assert role_by_shape(torch.zeros(shape)) == VECTOR


# -- where weights start -----------------------------------------------------------------------------------------------
def spread(model: nn.Module, name: str) -> float:
    return float(model.get_parameter(name).detach().std())


@pytest.mark.parametrize("memory", MEMORIES)
def test_what_writes_into_the_stream_starts_smaller_and_nothing_else(memory):
    """By sqrt(2 layers), of the linear layers; gates and matrices of one head start as their memory says."""
    torch.manual_seed(0)
    options = dict(kv_rank=64, rope_dim=16, head_dim=32) if memory == "latent-attention" else {}
    model = LanguageModel(ModelConfig(width=128, layers=3, heads=4, hidden=96, memory=memory, options=options))
    for name, role in param_roles(model).items():
        linear = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear)
        if linear and role.is_matrix:
            expected = 0.02 / 6**0.5 if role.into_stream else 0.02
            if memory == "mac" and name.endswith("attention.output.weight"):
                expected = 0.0  # see `MAC.begin_in_model`
            tolerance = 5 * expected / model.get_parameter(name).numel() ** 0.5
            assert spread(model, name) == pytest.approx(expected, abs=tolerance), name


def test_the_ways_that_names_have_misled():
    """Names that end as those of the last matrix do: inside latent attention, and before a norm in MAG."""
    torch.manual_seed(0)
    options = {"latent-attention": dict(kv_rank=64, rope_dim=16, head_dim=32)}
    inside = {
        "latent-attention": "down",
        "mag": "attention.output",
    }
    for memory, name in inside.items():
        config = ModelConfig(width=128, layers=12, heads=4, hidden=8, memory=memory, options=options.get(memory, {}))
        assert spread(LanguageModel(config), f"layers.0.memory.{name}.weight") == pytest.approx(0.02, rel=0.05)
