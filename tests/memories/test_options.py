"""Every option of every memory is refused in one line where its value makes no sense, and not later by torch."""

from dataclasses import MISSING, fields

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import MEMORIES, build_memory
from nl_course.model import ModelConfig
from nl_course.nested.config import LevelConfig, NestedConfig

NAN, INF = float("nan"), float("inf")
# Values that no option of that type may take, by the type that the config declares. A memory may refuse more.
WRONG = {
    "bool": ("no", "off", "", 0, 1, 0.0, [], torch.tensor(True)),
    "int": (-1, 2.5, 2.0, "2", True, NAN, INF, 10**30, (2,)),
    "float": (-1, NAN, INF, -INF, "1", True, 10**400, 1j),
    "str": ("nope", "", 3, True, b"mlp"),
    "Mapping": ("conv", 3, ["conv"], None),
    "tuple[str, ...]": ("key", ("nope",), 3, (1,), {"key": 1}),
}
MAY = {("kda", "lower_bound", -1)}  # a bound below 0 is what that option is for
# Where None is a choice the annotation says so.
NO_CHOICE = {"bool": None, "int": None, "float": None, "str": None}


def cases():
    for name, (_, config) in MEMORIES.items():
        for field in fields(config):
            kind, _, optional = field.type.partition(" | ") if isinstance(field.type, str) else _plain(field.type)
            assert kind in WRONG, f"{name}.{field.name} has the type {kind}: say here what it refuses"
            for value in WRONG[kind]:
                if not any((name, field.name) == (n, o) and value is v for n, o, v in MAY):
                    yield name, field.name, value
            if not optional and kind in NO_CHOICE:
                yield name, field.name, None


def _plain(kind) -> tuple[str, str, str]:
    return (kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)).partition(" | ")


def refusal(name: str, options: dict) -> str:
    """What the memory says against these options; fails if it takes them."""
    try:
        build_memory(name, **options)
    except CourseError as error:
        return str(error)
    return pytest.fail(f"{name} takes {options}")


def test_an_option_with_a_wrong_value_is_refused_by_name():
    tried = 0
    for name, option, value in cases():
        message = refusal(name, dict(width=8, heads=2) | {option: value})
        assert option in message and "\n" not in message, f"{name}: {option}={value!r} is refused with {message!r}"
        tried += 1
    assert tried > 800


@pytest.mark.parametrize("config", [ModelConfig, NestedConfig, LevelConfig])
def test_so_is_a_setting_of_a_model(config):
    wrong = WRONG | {
        "Mapping": ("x", 3, None, [1], {"width": 3}, {"path": "auto"}),
        "levels": (3, None, "x", [1], [[]]),
    }
    needed = {"hidden": 4} if config is LevelConfig else {}
    for field in fields(config):
        kind = (
            "levels" if field.name == "levels" else getattr(field.type, "__name__", str(field.type)).partition(" ")[0]
        )
        for value in wrong[kind]:
            with pytest.raises(CourseError, match=field.name):
                config(**needed | {field.name: value})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("attention", dict(head_dim=0)),
        ("attention", dict(head_dim=3)),
        ("latent-attention", dict(head_dim=0)),
        ("latent-attention", dict(rope_dim=3)),
        ("latent-attention", dict(rope_theta=None)),
        ("latent-attention", dict(value_dim=0)),
        ("latent-attention", dict(q_rank=0)),
        ("retnet", dict(head_dim=3)),
        ("ttt-linear", dict(mini_batch=0)),
        ("titans", dict(layers=5)),
        ("titans", dict(expansion=0)),
        ("self-modifying", dict(momentum=1)),
        ("self-modifying", dict(momentum=-1e-12)),
        ("self-modifying", dict(start_retention=1)),
        ("self-modifying", dict(start_retention=1 - 1e-9)),
    ],
)
def test_values_of_the_right_type_that_make_no_sense_are_refused(name, options):
    with pytest.raises(CourseError):
        build_memory(name, 8, 2, **options)


@pytest.mark.parametrize("name", MEMORIES)
def test_every_memory_needs_no_more_than_width_and_heads(name):
    """At any size that fits, the defaults build a memory that reads; what is given twice is read on."""
    for width, heads in ((4, 1), (4, 2), (16, 4), (48, 6), (64, 1), (96, 4), (128, 16)):
        memory = build_memory(name, width, heads)
        x = torch.randn(1, 3, width)
        y, state = memory(x)
        again, _ = memory(x[:, :1], state)
        assert y.isfinite().all() and again.isfinite().all() and memory.state_bytes(3) == state.nbytes
    for field in fields(memory.config):
        has_default = field.default is not MISSING or field.default_factory is not MISSING
        assert has_default or field.name in ("width", "heads")


def test_latent_attention_keeps_deepseeks_proportions():
    """DeepSeek-V2: heads of 128, a latent of 512, a rotary key of 64 (arXiv 2405.04434, section 3.1.2)."""
    config = build_memory("latent-attention", 2048, 16).config
    assert (config.head_dim, config.kv_rank, config.rope_dim, config.value_dim) == (128, 512, 64, 128)
    for width, heads in ((32, 1), (32, 2), (32, 4), (32, 8), (96, 4)):
        latent, keys = build_memory("latent-attention", width, heads), build_memory("attention", width, heads)
        assert latent.state_bytes(100) < keys.state_bytes(100)
