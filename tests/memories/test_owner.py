"""Whom a state belongs to: `nl_course.memories.owner`. Every pair of memories, every single setting, and what a
learner's memory may do besides."""

import copy
import json
import pickle
import warnings
from dataclasses import dataclass, fields, replace
from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nl_course.errors import CourseError
from nl_course.memories import (
    MEMORIES,
    DeltaConfig,
    DeltaNet,
    MACConfig,
    Memory,
    State,
    Titans,
    TitansConfig,
    build_memory,
)
from nl_course.memories.ablations.pooled import PooledTitans
from nl_course.memories.ablations.switches import ablated
from nl_course.memories.attention.cache import TokenCache
from nl_course.memories.owner import difference
from nl_course.memories.titans.neural import NeuralConfig
from nl_course.suite import Case, check_case
from nl_course.suite.case import CLOSE, WIDTH, inputs
from nl_course.suite.states import FIRST, changed

HEADS = 2
OLD = Path(__file__).parent.parent / "fixtures" / "before_renames"

# Options that a memory needs, and small sizes.
SIZES = {
    "latent-attention": dict(kv_rank=6, rope_dim=2, head_dim=4, q_rank=4),
    "ttt-linear": dict(mini_batch=4),
    "ttt-mlp": dict(mini_batch=4),
    "self-modifying": dict(chunk=4),
    "mac": dict(chunk=4, segment=4),
    **{name: dict(chunk=4, window=4) for name in ("mag", "mal")},
    **{name: dict(chunk=4) for name in ("linear", "retnet", "delta", "gated-delta", "kda", "titans")},
}

# Another value of every option. A new option is missing here, and the test below fails: either a state's meaning
# depends on it, or the memory's `outside_state` says that it does not.
OTHER = dict(
    **dict(width=16, heads=4, head_dim=6, norm_eps=1e-5, gate=(True, False), chunk=8, conv=2, rope_theta=500.0),
    **dict(kv_heads=1, window=3, qk_norm=True),  # attention
    **dict(kv_rank=8, rope_dim=4, value_dim=3, q_rank=5),  # latent attention
    **dict(negative=True),  # the delta rule
    # TTT
    **dict(kind=("linear", "mlp"), backbone="transformer", mini_batch=8, base_rate=0.5, position_factor="sum"),
    **dict(share_qk=False, norm=(True, False), residual=(True, False), bias=(True, False)),
    **dict(stop_gradient="first-order", recompute=1),
    **{"key_heads": 1, "lower_bound": -5.0},
    # Titans and its layers
    **dict(layers=3, expansion=3, activation=("gelu", "silu"), persistent=2, retention=False, max_step=0.05),
    **dict(momentum=(True, False), segment=8, attention_residual=False),
    **{"mac.gate": "vectors", "mag.gate": "vectors"},
    # copies of what a memory was
    **dict(memory="linear", options={"conv": 2}, states=3, restart=True),
    **{"cached.gate": "mean"},
    # self-modifying Titans
    **{"self-modifying.momentum": 0.5},
    **dict(hidden=6, variant="plain", adaptive=("memory",), targets="shared", adaptive_query=True, chunk_others=2),
    **dict(read="running", erase="off", start_retention=0.9, values="unit", start="random"),
)
OPTIONS = [(name, f.name) for name, (_, config) in MEMORIES.items() for f in fields(config)]


def small(name: str) -> Memory:
    torch.manual_seed(0)
    return build_memory(name, WIDTH, HEADS, **SIZES.get(name, {})).double()


def refused(memory: nn.Module, x: Tensor, state: State) -> str:
    with pytest.raises(CourseError) as caught:
        memory(x, state)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- every pair --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def every() -> dict[str, tuple[Memory, State]]:
    memories = {name: small(name) for name in MEMORIES}
    with torch.no_grad():
        return {name: (memory, memory(inputs()[:, :FIRST])[1]) for name, memory in memories.items()}


def test_a_memory_is_called_what_the_course_calls_it(every):
    assert [memory.owner_name for memory, _ in every.values()] == list(MEMORIES)
    assert all(state.owner == memory.owner == memory.init_state(1).owner for memory, state in every.values())


def test_no_memory_takes_anothers_state(every):
    for reader, writer in permutations(MEMORIES, 2):
        said = refused(every[reader][0], inputs(3), every[writer][1])
        assert f"was made by {writer}, and this is {reader}" in said


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{name}-{option}" for name, option in OPTIONS])
def test_with_another_option_a_state_is_refused_or_goes_on_exactly(every, name, option):
    assert option in OTHER, f"does a state's meaning depend on {option!r}? Give it another value in OTHER."
    memory, state = every[name]
    value = OTHER.get(f"{name}.{option}", OTHER[option])
    if isinstance(value, tuple) and option != "adaptive":
        value = next(one for one in value if one != getattr(memory.config, option))
    other = changed(memory, **{option: value})
    assert other is not None, f"{option} cannot be {value!r} here"
    if option not in memory.outside_state:
        x = inputs(3)
        said = refused(other, x if option != "width" else torch.cat([x, x], dim=-1), state)
        assert option in said or option == "kind"
        return
    x = inputs()
    with torch.no_grad():
        y, _ = other(x[:, FIRST:], state)
        expected, _ = other(x)
    torch.testing.assert_close(y, expected[:, FIRST:], **CLOSE)


def test_what_is_outside_of_a_state_is_an_option(every):
    for memory, _ in every.values():
        assert set(memory.outside_state) <= {f.name for f in fields(memory.config)}


@pytest.mark.parametrize("name", MEMORIES)
def test_another_path_and_other_weights_are_no_other_memory(every, name):
    memory, state = every[name]
    other = build_memory(name, WIDTH, HEADS, "reference", **SIZES.get(name, {})).double()
    assert other.owner == memory.owner
    other.load_state_dict(memory.state_dict())
    torch.testing.assert_close(other(inputs(3), state)[0], memory(inputs(3), state)[0], rtol=1e-8, atol=1e-8)
    with ablated(memory, sign=-1) if name in ("titans", "ttt-mlp") else torch.no_grad():
        assert memory(inputs(3), state)[1].owner == state.owner  # an ablated memory is the same memory


# -- what a state of a part says ---------------------------------------------------------------------------------------
def test_the_memory_inside_a_layer_knows_its_states_too():
    """The weights of Titans and of the memory in MAC mean the same, if their settings are the same."""
    titans, mac = small("titans"), small("mac")
    other = Titans(TitansConfig(WIDTH, HEADS, chunk=2)).double()
    (_, of_titans), (_, of_mac), (_, of_other) = (layer(inputs(4)) for layer in (titans, mac, other))
    assert of_titans.neural.owner == of_mac.neural.owner != of_other.neural.owner
    assert "mini" not in of_mac.neural.owner and "segment" not in of_mac.neural.owner
    titans(inputs(3), replace(of_titans, neural=of_mac.neural))
    assert "a neural memory with chunk 2, and here chunk is 4" in refused(
        mac, inputs(3), replace(of_mac, neural=of_other.neural)
    )
    assert "this is titans" in refused(titans, inputs(3), of_mac.neural)
    pooled = PooledTitans(TitansConfig(WIDTH, HEADS, chunk=4)).double()
    assert "was made by titans, and this is PooledTitans" in refused(pooled, inputs(3), of_titans)


def test_settings_of_the_layer_are_not_those_of_its_memory():
    assert {f.name for f in fields(MACConfig)} > {f.name for f in fields(NeuralConfig)}
    assert "persistent" not in json.loads(small("mac").neural.owner)["settings"]


# -- an owner as text --------------------------------------------------------------------------------------------------
def owner(name: str = "titans", **settings) -> str:
    return json.dumps({"name": name, "settings": settings})


@pytest.mark.parametrize(
    ("theirs", "ours", "defaults", "said"),
    [
        (owner(chunk=4), owner(chunk=4), {}, None),
        (owner(rate=1), owner(rate=1.0), {}, None),
        (owner(b=1, a=2), owner(a=2, b=1), {}, None),
        (owner(chunk=4), owner(chunk=16), {}, "was made by titans with chunk 4, and here chunk is 16"),
        (owner("linear"), owner("delta"), {}, "was made by linear, and this is delta"),
        # An option that came later counts as its default, also inside of a model's options.
        (owner(), owner(kept=True), {"kept": True}, None),
        (owner(), owner(kept=False), {"kept": True}, "with kept True, and here kept is False"),
        (owner(), owner(kept=False), {}, "with kept 'not there', and here kept is False"),
        (owner(options={"a": 1}), owner(options={"a": 1, "b": 2}), {"options": {"b": 2}}, None),
        (owner(options={"a": 1}), owner(options={"a": 1, "b": 3}), {"options": {"b": 2}}, "with options.b 2"),
        (owner(gone=1), owner(), {}, "with gone 1, and here gone is 'not there'"),
        (owner(levels=[[4, 8]]), owner(levels=[[4, 9]]), {}, "with levels.0.1 8"),
        # Names of older versions are translated.
        (owner("ttt-mlp", checkpoint=0), owner("ttt-mlp", recompute=0), {}, None),
        (
            owner("LanguageModel", memory="ttt-mlp", options={"checkpoint": 0}),
            owner("LanguageModel", memory="ttt-mlp", options={"recompute": 0}),
            {},
            None,
        ),
        ("no owner", owner(), {}, "was made by 'no owner', and this is titans"),
        ("[1]", owner(), {}, "was made by '[1]', and this is titans"),
    ],
)
def test_owners_differ_in_what_they_mean(theirs, ours, defaults, said):
    seen = difference(theirs, ours, defaults)
    assert seen is said is None or said in seen


def test_an_owner_is_made_once_and_goes_along_with_copies():
    memory = small("titans")
    assert memory.owner is memory.owner
    for twin in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert twin.owner == memory.owner
        twin(inputs(3), memory(inputs(3))[1])
    memory.config = replace(memory.config, chunk=8)
    assert json.loads(memory.owner)["settings"]["chunk"] == 8


def test_a_class_that_torch_derives_keeps_the_name():
    derived = type("FSDPTitans", (Titans,), {"__module__": "torch.distributed.fsdp"})
    assert derived.owner_name == "titans"
    assert type("MyTitans", (Titans,), {"__module__": "mine"}).owner_name == "MyTitans"


@dataclass(frozen=True)
class OddConfig:
    width: int
    heads: int = 1
    rates: tuple = (0.1, 0.2)
    inside: TitansConfig | None = None
    activation: object = torch.nn.functional.silu
    dtype: torch.dtype = torch.float32
    table: dict = None
    thing: object = object()


def test_any_setting_becomes_text_that_is_the_same_in_every_process():
    class Mine(Memory):
        def __init__(self, config):
            super().__init__(config.width)
            self.config = config

    settings = json.loads(Mine(OddConfig(8, inside=TitansConfig(4, 2), table={1: torch.tensor(2)})).owner)["settings"]
    assert settings["rates"] == [0.1, 0.2] and settings["inside"]["chunk"] == 16
    assert settings["activation"] == "silu" and settings["dtype"] == "torch.float32"
    assert "0x" not in settings["thing"] and settings["table"] == {"1": "tensor(2)"}


# -- files -------------------------------------------------------------------------------------------------------------
def test_a_file_says_whose_the_state_is(tmp_path):
    path = tmp_path / "state.safetensors"
    _, state = small("mag")(inputs(5))
    state.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = State.load(path)
    assert loaded.owner == state.owner and loaded.neural.owner == state.neural.owner
    assert "was made by mag, and this is mal" in refused(small("mal"), inputs(3), loaded)


def test_a_file_that_does_not_say_it_is_read_with_one_warning(tmp_path):
    memory = small("delta")
    _, state = memory(inputs(5))
    replace(state, owner=None).save(tmp_path / "state.safetensors")
    with pytest.warns(UserWarning, match="does not say what made it") as warned:
        loaded = State.load(tmp_path / "state.safetensors")
    assert len(warned) == 1 and loaded.owner is None
    torch.testing.assert_close(memory(inputs(3), loaded)[0], memory(inputs(3), state)[0])
    with pytest.warns(UserWarning, match="no checksums and did not note what made a state") as warned:
        State.load(OLD / "memories" / "delta.state-7.safetensors")
    assert len(warned) == 1


# -- precision ---------------------------------------------------------------------------------------------------------
@torch.no_grad()
@pytest.mark.parametrize("grad", [False, True])
def test_a_cache_takes_the_dtype_of_its_newest_columns(grad):
    half = TokenCache.of(torch.full((1, 2, 3), 0.1, dtype=torch.bfloat16))
    with torch.set_grad_enabled(grad):
        new = torch.ones(1, 1, 3, requires_grad=grad)
        full = half.append(new)
        again = full.append(new.bfloat16())
    assert full.columns.dtype == torch.float32 and again.columns.dtype == torch.bfloat16
    assert torch.equal(full.columns[:, :2], half.columns.float())
    grown = TokenCache.of(torch.zeros(1, 1, 3)).append(torch.ones(1, 1, 3))  # with room to spare
    assert grown.append(torch.ones(1, 1, 3, dtype=torch.bfloat16)).storage is not grown.storage


def test_a_state_of_a_precise_memory_is_rounded_only_when_asked():
    memory, low = small("mac").float(), small("mac").bfloat16()
    x = inputs(5, dtype=torch.float32)
    _, state = memory(x)
    said = refused(low, x.bfloat16(), state)
    assert "is torch.float32, which would be rounded to torch.bfloat16 here" in said
    assert "state.to(torch.bfloat16)" in said
    low(x.bfloat16(), state.to(torch.bfloat16))
    # What is summed up is kept in float32 in either: its state is not rounded.
    linear, low = small("linear").float(), small("linear").bfloat16()
    low(x.bfloat16(), linear(x)[1])


def test_no_tokens_are_no_exception():
    memory = small("titans").float()
    nothing, x = torch.zeros(2, 0, WIDTH), inputs(5, dtype=torch.float32)
    _, state = memory(x)
    refused(memory, nothing, state.to(torch.float64))
    _, brought = memory(nothing, state.to(torch.bfloat16))
    assert {t.dtype for t in brought.tensors().values()} == {torch.float32}
    assert memory(nothing, state)[1] is state


# -- memories of learners ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class GrowingState(State):
    """Keys and values so far, with whatever stood before the text."""

    pairs: Tensor | tuple | None
    start: Tensor | None = None


class Growing(Memory):
    """Attention without positions, as a learner may write it: its state is `first` and then a tensor that grows. It
    does not keep its config."""

    def __init__(self, first: str, weights: bool = True):
        super().__init__(WIDTH)
        self.first = first
        self.project = nn.Linear(WIDTH, 2 * WIDTH, bias=False) if weights else None

    def init_state(self, batch_size):
        sink = torch.ones(batch_size, 1, 2 * WIDTH, dtype=self._kept(), requires_grad=False)
        first = {"none": None, "sink": sink, "tuple": (), "default dtype": torch.zeros(batch_size, 0, 2 * WIDTH)}
        return GrowingState(first[self.first], sink if self.first == "none" else None)

    def _kept(self):
        return torch.float64 if self.project is None else self.project.weight.dtype

    def advance(self, x, state, trace):
        made = self.project(x) if self.project else torch.cat([x, 2 * x], dim=-1)  # (b, t, 2 d)
        earlier = state.pairs
        if self.first == "tuple":
            earlier = torch.cat(state.pairs, dim=1) if state.pairs else None
        pairs = made if earlier is None else torch.cat([earlier.to(made.dtype), made], dim=1)
        before = pairs.shape[1] - x.shape[1]
        outputs = [x[:, :0]]
        for t in range(x.shape[1]):
            k, v = pairs[:, : before + t + 1].chunk(2, dim=-1)
            outputs.append((k @ x[:, t, :, None]).softmax(1).mT @ v)
        if trace is not None:
            trace.add("made", made.detach())
        if self.first == "tuple":
            pairs = pairs.split(1, dim=1) if pairs.shape[1] else ()
        if earlier is None and not x.shape[1]:
            pairs = state.pairs
        return torch.cat(outputs, dim=1), replace(state, pairs=pairs)

    def state_bytes(self, tokens, batch_size=1):
        columns = tokens + (self.first in ("none", "sink"))
        return batch_size * columns * 2 * WIDTH * self._kept().itemsize


@pytest.mark.parametrize(
    ("first", "weights"), [("none", True), ("sink", True), ("tuple", True), ("default dtype", True), ("tuple", False)]
)
def test_a_learners_memory_may_change_the_form_of_its_state(first, weights):
    report = check_case(Case("growing", lambda: Growing(first, weights), grows=True))
    allowed = [] if weights else [name for name in report.failed if "fp32" in name or "bf16" in name or "size" in name]
    assert report.failed == allowed, str(report)


def test_a_state_that_cannot_be_written_on_is_left_alone():
    @dataclass(frozen=True)
    class Built(State):
        mean: Tensor

        def __init__(self, mean):
            object.__setattr__(self, "mean", mean)

    memory = small("linear")
    built = Built(torch.zeros(2, 3))
    assert memory.owned(built) is built and built.owner is None
    assert torch.equal(built.map(lambda t: t + 1).mean, torch.ones(2, 3))


class Careless(DeltaNet):
    """It says that its state does not depend on how far beta may go."""

    outside_state = ("negative",)


def test_a_setting_that_is_left_out_wrongly_is_found_out():
    report = check_case(Case("careless", lambda: Careless(DeltaConfig(WIDTH, HEADS))))
    assert report.failed == ["after a changed setting a state is refused, or exact"]
    assert "with negative True a state is read, and not as what it is" in str(report)
