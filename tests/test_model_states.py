"""States of whole models: whose they are, what is damaged, in which precision; and what a model cannot read."""

import warnings
from dataclasses import fields, replace

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import MEMORIES, State, tree
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import LevelConfig, NestedConfig, NestedLanguageModel
from nl_course.seeding import seeded
from nl_course.suite.case import assert_same_state
from nl_course.suite.states import damaged_states, refusal

SIZES = {
    "latent-attention": dict(kv_rank=6, rope_dim=2, head_dim=4),
    **{name: dict(mini_batch=4) for name in ("ttt-linear", "ttt-mlp")},
    **{name: dict(chunk=4, window=4) for name in ("mag", "mal")},
    "mac": dict(chunk=4, segment=4),
    **{name: dict(chunk=4) for name in ("titans", "self-modifying")},
}
PLAIN = ModelConfig(vocab=11, width=8, layers=2, heads=2, hidden=8, memory="titans", options={"chunk": 4}, conv=3)
LEVELS = (LevelConfig(5, 2), LevelConfig(6, 6))
NESTED = NestedConfig(vocab=11, width=8, layers=3, heads=2, levels=((LevelConfig(5),), LEVELS, LEVELS))

# Another value of every setting. A new one is missing here, and the test below fails: either a state's meaning depends
# on it, or `outside_state` says that it does not.
OTHER = dict(
    **dict(vocab=12, width=16, layers=4, heads=4, hidden=9, memory="mac", options={"chunk": 8}, conv=2, tied=False),
    **dict(norm_eps=1e-5, variant="nested", reduction="mean", clip=0.1, truncate=1, first_order=True, post_norm=True),
    levels=LEVELS,
)
OTHER_LEVEL = dict(hidden=4, chunk=4, rate=0.02, learn_rate=False, activation="silu")


def build(config) -> LanguageModel:
    kind = NestedLanguageModel if isinstance(config, NestedConfig) else LanguageModel
    with seeded(0):
        return kind(config)


def tokens(rows: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(0, 11, (rows, length), generator=torch.Generator().manual_seed(1))


def with_weights_of(model: LanguageModel, config) -> LanguageModel:
    other = build(config).to(model.embedding.weight.dtype)
    shapes = {name: weight.shape for name, weight in other.state_dict().items()}
    fitting = {name: w for name, w in model.state_dict().items() if shapes.get(name) == w.shape}
    other.load_state_dict(fitting, strict=False)
    return other


def refused_or_exact(config, changed) -> str:
    """What is said of a state of `config` by a model of `changed`; "" where it goes on exactly."""
    model = build(config).double()
    other = with_weights_of(model, changed)
    _, state = model(tokens()[:, :5])
    try:
        logits, _ = other(tokens()[:, 5:], state)
    except CourseError:
        return refusal(lambda: other(tokens()[:, 5:], state), "a state")
    expected, _ = other(tokens())
    torch.testing.assert_close(logits, expected[:, 5:], rtol=1e-10, atol=1e-10)
    return ""


@pytest.mark.parametrize("config", [PLAIN, NESTED], ids=["model", "nested"])
def test_with_another_setting_a_state_is_refused_or_goes_on_exactly(config):
    outside = build(config).outside_state
    for f in fields(config):
        assert f.name in OTHER, f"does a state's meaning depend on {f.name!r}? Give it another value in OTHER."
        changed = {f.name: OTHER[f.name]}
        if f.name == "layers" and config is NESTED:
            changed |= {"levels": (LEVELS,) * 4}
        if f.name == "memory":
            changed |= {"options": {}}
        if f.name == "options" and config is NESTED:
            changed = {"options": {"window": 4}}
        said = refused_or_exact(config, replace(config, **changed))
        named = {"layers": ("layers", "levels")}.get(f.name, (f.name,))
        assert said == "" if f.name in outside else any(name in said for name in named), f.name


def test_with_another_level_a_state_is_refused():
    for f in fields(LevelConfig):
        assert f.name in OTHER_LEVEL, f"does a state's meaning depend on a level's {f.name!r}?"
        level = replace(LEVELS[0], **{f.name: OTHER_LEVEL[f.name]})
        levels = (*NESTED.levels[:2], (level, LEVELS[1]))
        assert f"levels.2.0.{f.name}" in refused_or_exact(NESTED, replace(NESTED, levels=levels))


def test_an_option_of_the_memory_that_is_of_no_matter_is_none_in_a_model():
    fast = replace(PLAIN, memory="delta", options={"chunk": 4})
    assert refused_or_exact(fast, replace(fast, options={"chunk": 8})) == ""
    assert refused_or_exact(fast, replace(fast, options={"chunk": 64})) == ""
    said = refused_or_exact(fast, replace(fast, options={"negative": True}))
    assert "was made by LanguageModel with options.negative False, and here options.negative is True" in said


def test_models_of_other_kinds_and_memories_refuse_each_others_states():
    plain, nested = build(PLAIN), build(NESTED)
    (_, of_plain), (_, of_nested) = plain(tokens()), nested(tokens())
    assert "takes a ModelState" in refusal(lambda: plain(tokens(), of_nested), "")
    assert "was made by LanguageModel, and this is Nested" in refusal(lambda: nested(tokens(), of_plain), "")
    assert "takes a ModelState" in refusal(lambda: plain(tokens(), of_plain.layers[0]), "")
    assert "takes a state" in refusal(lambda: nested(tokens(), (of_plain,)), "")
    inner = of_plain.layers[0].memory
    assert "should be a BlockState" in refusal(lambda: plain(tokens(), replace(of_plain, layers=(inner, inner))), "")
    one = replace(of_plain, layers=of_plain.layers[:1])
    assert "states of 1 layers, and the model has 2 layers" in refusal(lambda: plain(tokens(), one), "")
    x = torch.randn(2, 3, 8)
    assert "and this is titans" in refusal(lambda: plain.layers[0].memory(x, of_plain), "")


@pytest.mark.parametrize(
    "config", [PLAIN, NESTED, replace(NESTED, conv=3, memory="delta")], ids=["plain", "nested", "nested-conv"]
)
def test_a_state_that_does_not_know_its_model_goes_on_or_does_not_fit(config, tmp_path):
    model = build(config)
    _, state = model(tokens()[:, :5])
    expected, _ = model(tokens()[:, 5:], state)
    unknown = _without_owners(state)
    assert not any(part.owner for part in (unknown, *unknown.layers))
    torch.testing.assert_close(model(tokens()[:, 5:], unknown)[0], expected)
    unknown.save(tmp_path / "state.safetensors")
    with pytest.warns(UserWarning, match="does not say what made it") as warned:
        loaded = State.load(tmp_path / "state.safetensors")
    assert len(warned) == 1
    torch.testing.assert_close(model(tokens()[:, 5:], loaded)[0], expected)
    other = build(replace(config, width=16))
    refusal(lambda: other(tokens(), unknown), "a state of another width")
    state.save(tmp_path / "state.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = State.load(tmp_path / "state.safetensors")
    assert loaded.owner == state.owner == model.owner
    assert loaded.memory(0).owner == model.layers[0].memory.owner


def _without_owners(value):
    """A state as older versions saved it."""
    if not tree.is_node(value):
        return value
    if tree.is_state(value):
        value = replace(value, owner=None)
    return tree.with_children(value, {name: _without_owners(child) for name, child in tree.children(value).items()})


@pytest.mark.parametrize(
    "config",
    [PLAIN, replace(PLAIN, memory="attention", options={}, conv=0), NESTED, replace(NESTED, memory="delta", conv=2)],
    ids=["titans-conv", "attention", "nested", "nested-delta-conv"],
)
@torch.no_grad()
def test_a_damaged_state_is_refused_in_a_line(config):
    model = build(config)
    _, state = model(tokens()[:, :5])
    count = 0
    for what, damaged in damaged_states(state):
        refusal(lambda damaged=damaged: model(tokens()[:, 5:], damaged), f"a state whose {what}")
        count += 1
    assert count > 20


@torch.no_grad()
@pytest.mark.parametrize("name", MEMORIES)
def test_a_models_state_may_have_been_filled_in_another_precision(name):
    model = build(replace(PLAIN, memory=name, options=SIZES.get(name, {})))
    _in_other_precisions(model)


@torch.no_grad()
@pytest.mark.parametrize(
    "config", [NESTED, replace(NESTED, memory="mac", options=SIZES["mac"], conv=3)], ids=["attention", "mac-conv"]
)
def test_a_nested_models_state_may_have_been_filled_in_another_precision(config):
    _in_other_precisions(build(config))


def _in_other_precisions(model: LanguageModel) -> None:
    _, state = model(tokens()[:, :3])
    with torch.autocast("cpu", torch.bfloat16):
        _, low = model(tokens()[:, :3])
    for length in (0, 1, 3, 4, 5):
        rest = tokens()[:, 3 : 3 + length]
        for narrow in (low, state.to(torch.bfloat16)):
            logits, after = model(rest, narrow)
            expected, expected_after = model(rest, narrow.to(torch.float32))
            torch.testing.assert_close(logits, expected)
            # A level's memory keeps what it began with as it is, until the segment ends.
            assert_same_state(after.to(torch.float32), expected_after.to(torch.float32), 1e-5)
        said = refusal(lambda rest=rest: model(rest, state.to(torch.float64)), "a state in float64")
        assert "would be rounded to torch.float32" in said
        with torch.autocast("cpu", torch.bfloat16):
            assert model(rest, state)[0].isfinite().all()


def test_what_a_model_cannot_read_is_named():
    for model in (build(PLAIN), build(NESTED)):
        wrong = [tokens().tolist(), tokens().numpy(), tokens().float(), tokens() + 0j, tokens().to(torch.uint8)]
        wrong += [tokens() > 3, tokens()[0], tokens().to("meta"), tokens() + 11, tokens() - 11, None, "text"]
        for given in wrong:
            refusal(lambda model=model, given=given: model(given), f"{given!r:.30}")
            refusal(lambda model=model, given=given: model.generate(given, 1), f"{given!r:.30}")
        refusal(lambda model=model: model.state_bytes(-1), "a text of -1 tokens")
        refusal(lambda model=model: model.init_state(-1), "-1 rows")
        said = refusal(lambda model=model: model.load_state_dict({"x": torch.ones(1)}), "other weights")
        assert said.startswith(f"the weights do not fit {type(model).__name__}: Missing key(s)") and len(said) < 500


def test_states_print_as_one_line():
    _, state = build(PLAIN)(tokens())
    assert repr(state) == f"ModelState(batch 2, float32, {state.nbytes:,} bytes)"
    _, state = build(NESTED)(tokens())
    assert repr(state) == f"NestedState(batch 2, 9 tokens, float32, {state.nbytes:,} bytes)"
    open_state = state.above[0]
    assert repr(open_state) == f"OpenState(batch 2, 9 tokens, float32, {open_state.nbytes:,} bytes)"
    cache = state.memory(0).key.to(torch.bfloat16)
    assert repr(cache) == f"TokenCache(batch 2, 9 tokens, bfloat16, {2 * 9 * 8 * 2:,} bytes)"
    mixed = replace(state.memory(0), key=cache)
    assert repr(mixed) == "AttentionState(batch 2, 9 tokens, bfloat16 and float32, 864 bytes)"
    assert repr([cache.rows([0]).to("meta")]) == "[TokenCache(batch 1, 9 tokens, bfloat16, 144 bytes, on meta)]"
    assert repr(replace(mixed, key=None, value=None)) == "AttentionState(9 tokens, 0 bytes)"
