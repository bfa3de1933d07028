"""The outer gradient: exact to second order, or cut where the config says so; and what is run all at once."""

from dataclasses import replace

import pytest
import torch

from nl_course.nested import NestedLanguageModel
from nl_course.nested.steps import clip_factor
from tests.nested.suite import CASES, TOKENS, assert_close, build, levels, text

CHECKED = [
    "sequential-attention-mixed",
    "independent-delta-odd",
    "nested-attention-mixed",
    "ttt",
    "ttt-e2e",
    "latent",
    *(name for name in ("titans", "hope") if name in CASES),
]


def mean_loss(model: NestedLanguageModel) -> torch.Tensor:
    return model.token_losses(text(tokens=TOKENS + 1)).mean()


def gradients(model: NestedLanguageModel) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters())
    values = torch.autograd.grad(mean_loss(model), parameters, materialize_grads=True)
    return dict(zip(names, values, strict=True))


def along(model: NestedLanguageModel, direction: dict[str, torch.Tensor], size: float) -> float:
    """The loss a little way off in a direction."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(size * direction[name])
        loss = float(mean_loss(model))
        for name, parameter in model.named_parameters():
            parameter.sub_(size * direction[name])
    return loss


@pytest.mark.parametrize("case", CHECKED)
def test_the_meta_gradient_is_that_of_finite_differences(case):
    """Through the updates, for every kind of parameter by itself (all blocks' starts, all rates, all queries, ...),
    along a random direction; differences of fourth order."""
    model, generator, h = build(case), torch.Generator().manual_seed(5), 2e-6
    exact = gradients(model)
    noise = {n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in model.named_parameters()}
    for kind in {_kind(name) for name in noise}:
        direction = {name: z if _kind(name) == kind else torch.zeros_like(z) for name, z in noise.items()}
        near, far = (along(model, direction, size) - along(model, direction, -size) for size in (h, 2 * h))
        slope, predicted = (8 * near - far) / (12 * h), sum(float((exact[n] * z).sum()) for n, z in direction.items())
        assert abs(slope - predicted) < 1e-6 * max(1.0, abs(slope)), kind


def _kind(name: str) -> str:
    """A parameter's name without the numbers of its block and level."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def test_the_first_order_option_has_the_same_losses_and_other_gradients():
    exact, cut = (
        build("sequential-attention-mixed"),
        build(replace(CASES["sequential-attention-mixed"], first_order=True)),
    )
    assert_close(mean_loss(cut), mean_loss(exact))
    a, b = gradients(exact), gradients(cut)
    name = "layers.0.levels.0.first"
    assert (a[name] - b[name]).norm() > 1e-3 * a[name].norm()
    assert b["layers.0.levels.0.log_rate"] != 0  # the steps' size is still learned
    # With every update a constant, the start's gradient is the sum of those of the weights that it became.
    assert_close(b[name], _sum_over_segments(exact, name))


def _sum_over_segments(model: NestedLanguageModel, name: str) -> torch.Tensor:
    """d loss / d W of each segment at the weights it had, memories free to carry gradients, added up: the start moved
    by a constant in every segment at once."""
    tokens = text(tokens=TOKENS + 1)
    with torch.no_grad():
        weights = []  # what every token was read with
        state = None
        for t in range(TOKENS):
            _, state = model(tokens[:, t : t + 1], state)
            weights.append(state.fast)
    level, part = name.rsplit(".", 1)
    shift = torch.zeros_like(dict(model.named_parameters())[name], requires_grad=True)
    states, losses = [layer.init_state(2) for layer in model.layers], []
    for t in range(TOKENS):
        fast = dict(weights[t])
        first, last = fast[level]
        fast[level] = (first + shift, last) if part == "first" else (first, last + shift)
        h = model.embedding(tokens[:, t : t + 1])
        for i, layer in enumerate(model.layers):
            h, states[i] = layer(h, states[i], None, fast, {})
        losses.append(torch.nn.functional.cross_entropy(model.logits(h)[:, 0], tokens[:, t + 1]))
    return torch.autograd.grad(torch.stack(losses).mean(), shift)[0]


def test_truncation_cuts_what_is_further_back_and_nothing_else():
    case, name = CASES["sequential-attention-one"], "layers.0.levels.0.first"  # boundaries after 4, 8 and 12 tokens
    exact, first = gradients(build(case)), gradients(build(replace(case, first_order=True)))
    cut = {n: gradients(build(replace(case, truncate=n))) for n in range(5)}
    losses = [mean_loss(build(replace(case, truncate=n))) for n in (None, 0, 1)]
    assert_close(losses[0], losses[1])
    assert_close(losses[0], losses[2])
    for n in (3, 4):  # as many boundaries as there are
        for key, gradient in exact.items():
            assert_close(cut[n][key], gradient)
    distances = [(cut[n][name] - exact[name]).norm() for n in range(3)]
    assert all(distance > 1e-8 for distance in distances)
    assert_close(cut[0][name], first[name])  # every update a constant
    assert cut[0]["layers.0.levels.0.log_rate"] == 0 != first["layers.0.levels.0.log_rate"]
    assert (cut[1][name] - cut[0][name]).norm() > 1e-8


def test_a_start_learns_through_the_steps_made_from_it():
    """Period 4, 5 tokens: the loss after the boundary reaches the start of the levels, the rate and the embedding by
    way of the update alone where the weights are shifted back."""
    model = build("sequential-attention-one")
    losses = model.token_losses(text(tokens=6))
    late = torch.autograd.grad(losses[:, 4].sum(), [level.log_rate for _, level, _ in model.clocked], retain_graph=True)
    early = torch.autograd.grad(
        losses[:, :4].sum(), [level.log_rate for _, level, _ in model.clocked], allow_unused=True
    )
    assert all(g != 0 for g in late) and all(g is None or g == 0 for g in early)


def test_clipping_below_the_limit_changes_nothing_and_above_gives_a_step_of_that_length():
    case = replace(CASES["sequential-attention-one"], levels=levels(4, learn_rate=False))
    free, loose, tight = (build(replace(case, clip=limit)) for limit in (None, 1e6, 0.02))
    with torch.no_grad():
        (_, a), (_, b), (_, c) = (model(text(tokens=5)) for model in (free, loose, tight))
    rate = case.levels[0][0].rate
    for name in a.fast:
        for x, y in zip(a.fast[name], b.fast[name], strict=True):
            assert_close(x, y)
    squares = 0
    for name, level, _ in tight.clocked:
        for w, start in zip(c.fast[name], (level.first, level.last), strict=True):
            squares = squares + (w - start).square().sum((1, 2))
    assert_close(squares.sqrt(), torch.full((2,), rate * 0.02, dtype=torch.float64))


def test_a_clip_can_be_differentiated_even_where_there_is_nothing_to_clip():
    zero = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    share = clip_factor([zero], 1.0)
    assert share.tolist() == [[[1.0]], [[1.0]]]
    assert torch.autograd.grad(share.sum(), zero)[0].abs().max() == 0


def test_inference_needs_no_gradient_and_leaves_none():
    model = build("sequential-attention-mixed")
    with torch.no_grad():
        logits, state = model(text())
    assert not logits.requires_grad
    assert not any(t.requires_grad for t in state.tensors().values())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_frozen_model_learns_while_it_reads():
    """Not one parameter asks for a gradient, and the levels move all the same."""
    model, same = build("sequential-attention-mixed"), build("sequential-attention-mixed").requires_grad_(False)
    assert_close(same(text())[0], model(text())[0].detach())


def test_blocks_below_the_lowest_level_read_all_at_once(monkeypatch):
    model, calls = build("upper-blocks"), [[] for _ in range(4)]
    for i, layer in enumerate(model.layers):
        layer.memory.register_forward_hook(lambda m, given, out, i=i: calls[i].append(given[0].shape[1]))
    losses = mean_loss(model)
    assert calls == [[TOKENS], [TOKENS], [TOKENS], [4, 4, 4, 1]]
    pieces = build("upper-blocks")
    pieces.lowest = 0  # the same model with every block above the first advanced from boundary to boundary
    for layer in pieces.layers:
        layer.memory.path = "reference"
    again = mean_loss(pieces)
    assert_close(losses, again)
    parameters = [list(m.parameters()) for m in (model, pieces)]
    one = torch.autograd.grad(losses, parameters[0], materialize_grads=True)
    two = torch.autograd.grad(again, parameters[1], materialize_grads=True)
    for a, b in zip(one, two, strict=True):
        assert_close(a, b)


def test_the_fused_norm_can_be_differentiated_three_times():
    """Once for the level, once for training, once where a memory above differentiates itself. PyTorch's layer_norm
    cannot; should its rms_norm ever be changed in the same way, it has to be written out."""
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gain = torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).add(0.5).requires_grad_()

    def slope(x, gain):
        y = torch.nn.functional.rms_norm(x, (4,), gain, 1e-6)
        return torch.autograd.grad(y.pow(3).sum(), (x, gain), create_graph=True)

    assert torch.autograd.gradgradcheck(slope, (x, gain))
