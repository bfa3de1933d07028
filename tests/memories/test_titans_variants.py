"""MAC, MAG and MAL: what each part sees, beside plain attention written out."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from nl_course.errors import CourseError
from nl_course.memories import Trace, build_memory
from nl_course.memories.ablations.switches import ablate, restore
from nl_course.memories.attention.rope import Rotary
from nl_course.memories.titans.attention import Prefix, Projected, attend_window, attend_window_blocks
from nl_course.memories.titans.mac import _side_by_side
from nl_course.model import LanguageModel, ModelConfig

CLOSE = dict(rtol=1e-10, atol=1e-10)
WIDTH, HEADS, TOKENS = 8, 2, 13


def make(name: str, **options):
    torch.manual_seed(0)
    sizes = dict(expansion=2, chunk=4, conv=3, persistent=3) | options
    memory = build_memory(name, WIDTH, HEADS, **sizes).double()
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return memory


def text(tokens: int = TOKENS, rows: int = 2) -> Tensor:
    return torch.randn(rows, tokens, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def by_hand(attention, x: Tensor, persistent: Tensor, sees) -> Tensor:
    """Attention one query and one head at a time. sees(t): the positions that t reads, and where positions start."""
    f, answer = WIDTH // HEADS, torch.zeros_like(x)
    turn = Rotary(f)
    q, k, v = (project(x) for project in (attention.query, attention.key, attention.value))
    key, value = attention.key(persistent), attention.value(persistent)
    for row in range(x.shape[0]):
        for t in range(x.shape[1]):
            for h in range(HEADS):
                own = slice(h * f, (h + 1) * f)
                positions, start = sees(t)
                query = turn(q[row, t : t + 1, own], t - start)[0]
                turned = [turn(k[row, s : s + 1, own], s - start)[0] for s in positions]
                scores = [q[row, t, own] @ key[i, own] for i in range(len(persistent))] + [query @ u for u in turned]
                weights = (torch.stack(scores) / f**0.5).softmax(0)
                values = [*value[:, own], *(v[row, s, own] for s in positions)]
                answer[row, t, own] = sum(w * u for w, u in zip(weights, values))
    return attention.output(answer)


def jacobian_support(memory, x: Tensor, without=()) -> Tensor:
    """(T, T): whether output t depends on input s."""
    ablate(memory, without=without)
    x = x[:1].clone().requires_grad_()
    y, _ = memory(x)
    rows = [torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)[0][0].abs().sum(-1) for t in range(x.shape[1])]
    restore(memory)
    return torch.stack(rows) != 0


# -- memory as a context -----------------------------------------------------------------------------------------
def without_memory(merge, y: Tensor) -> Tensor:
    """What is left of the merging when the memory counts as 1."""
    y = merge.y_norm(y)
    return merge.output(y if merge.gate is None else silu(merge.gate(y)))


@pytest.mark.parametrize(("residual", "gate"), [(True, "linear"), (False, "vectors")])
def test_mac_without_its_memory_is_block_local_attention_with_a_prefix(residual, gate):
    memory, x = make("mac", segment=5, attention_residual=residual, gate=gate), text()
    ablate(memory, without=("memory",))
    expected = by_hand(memory.attention, x, memory.persistent, lambda t: (range(t // 5 * 5, t + 1), t // 5 * 5))
    torch.testing.assert_close(memory(x)[0], without_memory(memory.merge, expected + x * residual), **CLOSE)


@pytest.mark.parametrize("residual", [True, False])
def test_in_a_model_mac_begins_as_its_memory_alone_and_attention_joins_in(residual):
    options = dict(segment=5, attention_residual=residual)
    model = LanguageModel(ModelConfig(vocab=11, width=8, layers=1, heads=2, hidden=8, memory="mac", options=options))
    memory = model.layers[0].memory
    x, trace = text().float(), Trace()
    y, _ = memory(x, None, trace)
    assert torch.equal(trace["attended"], x) == residual
    y.square().sum().backward()
    assert memory.attention.output.weight.grad.abs().max() > 0


def test_masking_the_rows_is_not_zeroing_them():
    memory, x = make("mac", segment=5, attention_residual=False), text(5)
    ablate(memory, without=("memory",))
    masked, _ = memory(x)
    own, nothing = memory.attention.project(x, 0, 5), memory.attention.project(torch.zeros_like(x), 0, 5)
    cache = memory.init_state(2).segment_cache.append(_side_by_side(own, nothing))
    restore(memory)  # so that the rows of zeros are read, and keep their share of the softmax
    zeroed = memory.attend(own, cache, memory.prefix())
    assert (without_memory(memory.merge, zeroed) - masked).abs().max() > 1e-3


def test_mac_sees_no_later_token_with_its_memory_on():
    seen = jacobian_support(make("mac", segment=5), text())
    assert not seen.triu(1).any()


def test_mac_attention_stays_in_its_segment_and_only_memory_carries_over():
    memory, x = make("mac", segment=4), text()
    attention_only = jacobian_support(memory, x, without=("memory",))
    segment = torch.arange(TOKENS) // 4
    assert torch.equal(attention_only, (segment[:, None] == segment[None, :]).tril())
    with_memory = jacobian_support(memory, x)
    assert with_memory[8:12, :4].all()  # segment 1 reaches segment 3


def test_mac_retrieves_with_the_memory_as_the_segment_began():
    """The first retrieving reads M_0 whatever the segment holds; the second reads what the first segment wrote."""
    memory, x = make("mac", segment=6, conv=0), text(12, 1)
    retrieved = []
    for factor in (1.0, -1.0):
        changed, trace = x.clone(), Trace()
        changed[:, 2] *= factor
        memory(changed, None, trace)
        retrieved.append(trace["retrieved"])
    one, other = retrieved
    untouched = [0, 1, 3, 4, 5]
    assert torch.equal(one[:, untouched], other[:, untouched])
    assert ((one[:, 6:] - other[:, 6:]).abs().amax(-1) > 1e-9).all()


# -- memory as a gate, memory as a layer -------------------------------------------------------------------------
def window(size: int):
    return lambda t: (range(max(0, t - size + 1), t + 1), 0)


@pytest.mark.parametrize(("residual", "gate"), [(True, "linear"), (False, "vectors")])
def test_mag_with_a_constant_gate_is_sliding_attention_with_a_prefix(residual, gate):
    memory, x = make("mag", window=4, attention_residual=residual, gate=gate), text()
    ablate(memory, without=("memory",))
    expected = by_hand(memory.attention, x, memory.persistent, window(4))
    torch.testing.assert_close(memory(x)[0], without_memory(memory.merge, expected + x * residual), **CLOSE)


def test_mal_with_an_identity_memory_is_sliding_attention_with_a_prefix():
    memory, x = make("mal", window=4), text()
    ablate(memory, without=("memory",))
    norm = memory.between_norm
    torch.testing.assert_close(
        memory(x)[0], by_hand(memory.attention, norm(x), norm(memory.persistent), window(4)), **CLOSE
    )


@pytest.mark.parametrize("name", ["mag", "mal"])
def test_attention_is_blind_beyond_its_window_and_memory_is_not(name):
    memory, x = make(name, window=4), text()
    near = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril() & ~torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril(-4)
    assert torch.equal(jacobian_support(memory, x, without=("memory",)), near)
    assert jacobian_support(memory, x)[TOKENS - 1, 0]


@pytest.mark.parametrize("earlier", [0, 1, 3, 7])
@pytest.mark.parametrize(("tokens", "size"), [(1, 4), (4, 4), (5, 4), (11, 4), (12, 3), (9, 1)])
def test_attention_in_blocks_is_attention(tokens, size, earlier):
    generator = torch.Generator().manual_seed(1)

    def draw(columns):
        return torch.randn(2, HEADS, columns, 3, generator=generator, dtype=torch.float64)

    earlier = min(earlier, size - 1)
    key, value, prefix = draw(earlier + tokens), draw(earlier + tokens), Prefix(draw(2), draw(2))
    own = Projected(draw(tokens), draw(tokens), key[:, :, earlier:], value[:, :, earlier:])
    whole = attend_window(own, prefix, key, value, size)
    torch.testing.assert_close(attend_window_blocks(own, prefix, key, value, size), whole, **CLOSE)


# -- persistent tokens -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["titans", "mac", "mag", "mal"])
def test_persistent_tokens_matter_and_are_learned(name):
    memory, x = make(name), text()
    with_them, _ = memory(x)
    (gradient,) = torch.autograd.grad(with_them[:, -1].sum(), memory.persistent)
    assert (gradient.abs().sum(-1) > 0).all()  # every one of them, and from the last token: never evicted
    if name != "titans":
        ablate(memory, without=("persistent",))
        assert (memory(x)[0] - with_them).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["mag", "mal"])
def test_no_window_evicts_the_prefix(name):
    """With the memory cut, the prefix reaches the last token through attention or not at all."""
    memory, x = make(name, window=2), text(300, 1)
    ablate(memory, without=("memory",))
    with torch.no_grad():
        one, _ = memory(x)
        memory.persistent.mul_(-1)
        other, _ = memory(x)
    assert (one[:, -1] - other[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["mac", "mag", "mal"])
def test_the_prefix_moves_no_position(name):
    """With or without persistent tokens, a real token's query and key are turned by its own position, in any split."""
    for persistent in (0, 5):
        memory, x = make(name, persistent=persistent), text()
        whole, _ = memory(x)
        state, pieces = None, []
        for piece in x.split([3, 1, 6, 3], dim=1):
            y, state = memory(piece, state)
            pieces.append(y)
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, **CLOSE)
        assert state.position == TOKENS


# -- what else users would ask -----------------------------------------------------------------------------------
def test_each_part_can_be_cut_and_put_back():
    for name in ("mac", "mag", "mal"):
        memory, x = make(name), text()
        whole, _ = memory(x)
        outputs = [whole]
        for part in ("memory", "attention", "persistent"):
            ablate(memory, without=(part,))
            outputs.append(memory(x)[0])
        for i, one in enumerate(outputs):
            assert all((one - other).abs().max() > 1e-6 for other in outputs[i + 1 :])
        restore(memory)
        assert torch.equal(memory(x)[0], whole)


def test_a_part_that_there_is_not_is_named():
    with pytest.raises(CourseError, match=r"window.*memory"):
        ablate(make("mag"), without=("window",))


@pytest.mark.parametrize("bad", [dict(layers=5), dict(layers=0), dict(chunk=0), dict(max_step=-1), dict(persistent=-1)])
def test_bad_sizes_are_named(bad):
    with pytest.raises(CourseError, match=next(iter(bad))):
        make("titans", **bad)


@pytest.mark.parametrize("name", ["mac", "mag", "mal"])
def test_both_paths_give_the_same_values_and_gradients(name):
    options = {"segment": 5} if name == "mac" else {"window": 3}
    fast = make(name, **options)
    slow = build_memory(name, WIDTH, HEADS, "reference", expansion=2, chunk=4, conv=3, persistent=3, **options).double()
    slow.load_state_dict(fast.state_dict())
    x = text()
    (one, _), (other, _) = fast(x), slow(x)
    torch.testing.assert_close(one, other, **CLOSE)
    direction = torch.randn_like(one)
    left = torch.autograd.grad((one * direction).sum(), list(fast.parameters()))
    right = torch.autograd.grad((other * direction).sum(), list(slow.parameters()))
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
