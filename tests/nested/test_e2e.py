"""TTT-E2E: its step, its clip, its gradients, and reading in any split (test_e2e_official.py has the authors' rule)."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nl_course.memories import Trace
from nl_course.nested import NestedConfig, NestedLanguageModel, e2e_config, without_inner_loop
from tests.nested.suite import assert_close, assert_same_state, build, read

CHUNK, WINDOW, VOCAB = 4, 6, 11
CONFIG = e2e_config(
    vocab=VOCAB, width=8, layers=4, heads=2, hidden=7, fast_hidden=6, window=WINDOW, chunk=CHUNK, suffix=2, clip=0.2
)
NAMES = ("layers.2.levels.0", "layers.3.levels.0")


def text(tokens: int, rows: int = 2, seed: int = 3) -> Tensor:
    return torch.randint(0, VOCAB, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def like(model: NestedLanguageModel, config: NestedConfig) -> NestedLanguageModel:
    """A model of another config with the same weights."""
    other = NestedLanguageModel(config).double()
    other.load_state_dict(model.state_dict())
    return other


def gradients(loss: Tensor, model: NestedLanguageModel) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True))


def assert_same_gradients(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, gradient in left.items():
        assert_close(right[name], gradient)


# -- without a step ----------------------------------------------------------------------------------------------------
def test_without_a_step_it_is_the_window_model_with_the_fast_mlp_frozen():
    model, tokens = build(replace(CONFIG, levels=_with_rate(0.0))), text(15)
    still = like(model, without_inner_loop(CONFIG))
    a, b = model.token_losses(tokens), still.token_losses(tokens)
    assert_close(model(tokens)[0], still(tokens)[0])
    assert_close(a, b)
    assert_same_gradients(gradients(a.mean(), model), gradients(b.mean(), still))
    assert (like(model, CONFIG).token_losses(tokens) - b).abs().max() > 1e-3


def _with_rate(rate: float):
    blocks = []
    for block in CONFIG.levels:
        blocks.append(tuple(replace(level, rate=rate if level.chunk else 0.01) for level in block))
    return tuple(blocks)


# -- one chunk ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tokens", [1, CHUNK - 1, CHUNK])
def test_one_chunk_is_scored_before_anything_moves(tokens):
    model = build(CONFIG)
    still = like(model, without_inner_loop(CONFIG))
    a, b = model.token_losses(text(tokens + 1)), still.token_losses(text(tokens + 1))
    assert_close(a, b)
    assert_same_gradients(gradients(a.mean(), model), gradients(b.mean(), still))


# -- the gradient through an update ------------------------------------------------------------------------------------
@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["first", "last"])
def test_the_second_chunk_is_differentiated_through_the_update(clip, name, part):
    config = replace(CONFIG, clip=clip)
    model, tokens = build(config), text(2 * CHUNK + 1)
    start = model.get_parameter(f"{name}.{part}")

    def second_chunk(m: NestedLanguageModel) -> Tensor:
        return m.token_losses(tokens)[:, CHUNK:].mean()

    exact = torch.autograd.grad(second_chunk(model), start)[0]
    generator, epsilon = torch.Generator().manual_seed(0), 3e-6
    for direction in torch.randn(3, *start.shape, dtype=torch.float64, generator=generator):
        sides = []
        with torch.no_grad():
            for sign in (1, -2, 1):
                start.add_(sign * epsilon * direction)
                sides.append(second_chunk(model))
        slope = (sides[0] - sides[1]) / (2 * epsilon)
        torch.testing.assert_close(slope, (exact * direction).sum(), rtol=1e-6, atol=1e-6)
    cut = like(model, replace(config, first_order=True))
    first_order = torch.autograd.grad(second_chunk(cut), cut.get_parameter(f"{name}.{part}"))[0]
    assert_close(second_chunk(cut), second_chunk(model))
    assert (first_order - exact).norm() > 1e-2 * exact.norm()


# -- clipping ----------------------------------------------------------------------------------------------------------
def moved(model: NestedLanguageModel, tokens: Tensor) -> list[Tensor]:
    """What the first boundary did to every fast matrix."""
    with torch.no_grad():
        _, state = model(tokens[:, : CHUNK + 1])
    changes = []
    for name, level, _ in model.clocked:
        first, last = state.fast[name]
        changes += [(first - level.first).detach(), (last - level.last).detach()]
    return changes


def length(change: list[Tensor]) -> Tensor:
    return sum(w.square().sum((1, 2)) for w in change).sqrt()


def test_a_small_gradient_is_not_clipped_and_a_large_one_gives_a_step_of_length_eta():
    free = build(replace(CONFIG, clip=None))
    tokens = text(CHUNK + 1)
    norms = length(moved(free, tokens))
    loose, tight = (like(free, replace(CONFIG, clip=float(c))) for c in (2 * norms.max(), 0.5 * norms.min()))
    for a, b in zip(moved(free, tokens), moved(loose, tokens), strict=True):
        assert_close(a, b)
    assert_close(length(moved(tight, tokens)), torch.full((2,), float(0.5 * norms.min()), dtype=torch.float64))
    # At eta = 1, clip = 1 the step has length 1; between the two norms one row is clipped, and the other is not.
    large = like(free, replace(CONFIG, clip=1e-3, levels=_with_rate(0.25)))
    assert_close(length(moved(large, tokens)), torch.full((2,), 0.25e-3, dtype=torch.float64))
    between = like(free, replace(CONFIG, clip=float(norms.mean())))
    steps = length(moved(between, tokens))
    assert norms.min() < norms.mean() < norms.max()
    assert_close(steps, norms.clamp(max=norms.mean()))


def test_the_clip_itself_is_differentiated():
    """Along the input embeddings, which reach the second chunk's loss through the norm too."""
    model, tokens = build(replace(CONFIG, clip=0.05)), text(2 * CHUNK + 1)
    direction = torch.randn(VOCAB, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = model.token_losses(tokens).mean()
    slope = (torch.autograd.grad(loss, model.embedding.weight)[0] * direction).sum()
    epsilon, sides = 1e-6, []
    with torch.no_grad():
        for sign in (1, -1):
            other = like(model, model.config)
            other.embedding.weight.add_(sign * epsilon * direction)
            sides.append(other.token_losses(tokens).mean())
    torch.testing.assert_close((sides[0] - sides[1]) / (2 * epsilon), slope, rtol=1e-6, atol=1e-9)


# -- any split of the text ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pieces", [[1] * 15, [3, 5, 0, 4, 3], [4, 4, 4, 3], [5, 4, 4, 2], [14, 1]], ids=str)
def test_any_split_is_the_whole(pieces):
    model, tokens = build(CONFIG), text(15)
    whole, one, many = model(tokens), Trace(), Trace()
    with torch.no_grad():
        model(tokens, None, one)
        state = None
        for piece in tokens.split(pieces, dim=1):
            _, state = model(piece, state, many)
        logits, after = read(model, tokens, pieces)
    assert_close(logits, whole[0])
    assert_same_state(after, whole[1])
    assert_same_state(state, whole[1])
    assert_close(many["loss"][:, 1:], one["loss"][:, 1:])
    assert_close(one["loss"][:, 1:], model.token_losses(tokens))


def test_the_update_waits_for_the_chunks_last_target():
    model, tokens, state = build(CONFIG), text(2 * CHUNK + 2), None
    starts = {name: level.first for name, level, _ in model.clocked}
    with torch.no_grad():
        for t in range(tokens.shape[1]):
            before = starts if state is None else {name: pair[0] for name, pair in state.fast.items()}
            _, state = model(tokens[:, t : t + 1], state)
            for name in NAMES:
                assert torch.equal(state.fast[name][0], before[name].expand(2, -1, -1)) == (t not in (4, 8))


# -- rows --------------------------------------------------------------------------------------------------------------
def test_rows_do_not_share_their_weights():
    model, tokens = build(CONFIG), text(14)
    both, state = model(tokens)
    for row in range(2):
        alone, own = model(tokens[row : row + 1])
        assert_close(both[row : row + 1], alone)
        assert_same_state(state.rows([row]), own)
    assert (state.fast[NAMES[0]][0][0] - state.fast[NAMES[0]][0][1]).norm() > 1e-3
    halves = [gradients(model.token_losses(tokens[r : r + 1]).mean(), model) for r in range(2)]
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
    assert_same_gradients(gradients(model.token_losses(tokens).mean(), model), mean)


# -- what runs all at once ---------------------------------------------------------------------------------------------
def test_lower_blocks_first_is_all_blocks_chunk_by_chunk():
    model, tokens = build(CONFIG), text(15)
    calls = [[] for _ in range(4)]
    for i, layer in enumerate(model.layers):
        layer.memory.register_forward_hook(lambda m, given, out, i=i: calls[i].append(given[0].shape[1]))
    losses = model.token_losses(tokens)
    assert calls == [[14], [14], [14], [4, 4, 4, 2]]
    pieces = like(model, CONFIG)
    pieces.lowest = 0
    for i, layer in enumerate(pieces.layers):
        layer.memory.path = "reference"
        layer.memory.register_forward_hook(lambda m, given, out, i=i: calls[i].append(given[0].shape[1]))
    again = pieces.token_losses(tokens)
    assert calls[1][1:] == [4, 4, 4, 2]
    assert_close(again, losses)
    assert_same_gradients(gradients(again.mean(), pieces), gradients(losses.mean(), model))


# -- the size of the state ---------------------------------------------------------------------------------------------
def test_state_bytes_are_the_formula_and_constant_once_the_window_is_full():
    model, state = build(CONFIG), None
    d, f, layers, suffix, item, seen = 8, 6, 4, 2, 8, {}
    with torch.no_grad():
        for t in range(1, 30):
            _, state = model(text(30)[:, t - 1 : t], state)
            pending = (t - 1) % CHUNK + 1
            held_columns = min(t - pending, WINDOW) + pending  # in the blocks above the lowest fast MLP
            columns = (layers - suffix + 1) * min(t, WINDOW) + (suffix - 1) * held_columns
            numbers = 3 * d * f * suffix + 2 * d * columns + d * pending
            assert state.nbytes == model.state_bytes(t, 2) == 2 * (numbers * item + (pending - 1) * 8)
            seen.setdefault(pending, []).append(state.nbytes)
    for sizes in seen.values():
        assert len(set(sizes[3:])) == 1 and len(sizes) > 5


# -- causality ---------------------------------------------------------------------------------------------------------
def test_no_loss_sees_an_input_after_its_own():
    model, tokens, inputs = build(CONFIG), text(15), []
    model.embedding.register_forward_hook(lambda m, given, out: inputs.append(out))
    losses = model.token_losses(tokens)
    for t in range(14):
        slope = torch.autograd.grad(losses[:, t].sum(), inputs[0], retain_graph=True)[0]
        assert slope[:, t + 1 :].eq(0).all()
        assert (slope[:, t].norm(dim=-1) > 1e-6).all()
    # Far beyond the window: only the fast weights carry what came first.
    assert (slope[:, 0].norm(dim=-1) > 1e-12).all()
