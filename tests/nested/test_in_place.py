"""In-Place TTT: the plain model to the digit without a rate, the paper's update by hand, and no look ahead."""

import pytest
import torch
from torch.nn.functional import cross_entropy, silu

from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested.in_place import InPlace
from nl_course.seeding import seeded

CLOSE = dict(rtol=1e-10, atol=1e-12)


def model(**options) -> LanguageModel:
    sizes = dict(vocab=16, width=8, layers=2, heads=2, hidden=12, conv=3)
    with seeded(0):
        made = LanguageModel(ModelConfig(**sizes | options)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(10)
    return made


def text(tokens: int = 11, rows: int = 2) -> torch.Tensor:
    return torch.randint(16, (rows, tokens), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("target", ["next", "error"])
def test_a_rate_of_zero_is_the_plain_model_to_the_digit(target):
    plain, tokens = model(), text(12)
    logits, _ = InPlace(plain, 1, 4, 0.0, target)(tokens)
    state, expected = None, []
    for piece in tokens.split(4, dim=1):
        y, state = plain(piece, state)
        expected.append(y)
    assert torch.equal(logits, torch.cat(expected, dim=1))


@torch.no_grad()
@pytest.mark.parametrize("target", ["next", "error"])
def test_the_update_by_hand(target):
    """Token by token: an outer product of what the matrix was given and the target, which stays in its chunk."""
    plain, tokens, chunk, rate = model(layers=1, conv=0), text(8, rows=1), 4, 0.3
    reader = InPlace(plain, 0, chunk, rate, target)
    logits, state = reader(tokens)
    block, E, W = plain.layers[0], plain.embedding.weight, plain.layers[0].mlp.down.weight.T.clone()
    h, _ = block.mix(plain.embedding(tokens), block.init_state(1), None)
    x = block.mlp_norm(h)
    z = silu(block.mlp.gate(x)) * block.mlp.up(x)  # (1, 8, f)
    for start in (0, 4):
        change = torch.zeros_like(W)
        for t in range(start, start + chunk):
            said = plain.norm(h[0, t] + z[0, t] @ W) @ E.T
            torch.testing.assert_close(logits[0, t], said, **CLOSE)
            if t < start + chunk - 1:
                v = E[tokens[0, t + 1]]
                if target == "error":
                    v = v - said.softmax(-1) @ E
                change += rate * torch.outer(z[0, t], v)
        W = W + change
    torch.testing.assert_close(state.fast[0], W, **CLOSE)


def test_the_error_is_the_gradient_of_the_loss_where_nothing_stands_behind_the_matrix():
    plain, tokens = model(layers=1), text(5)
    plain.norm = torch.nn.Identity()
    weight = plain.layers[0].mlp.down.weight
    logits, _ = plain(tokens)
    loss = cross_entropy(logits[:1, :-1].flatten(0, 1), tokens[:1, 1:].flatten(), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, weight)
    _, state = InPlace(plain, 0, 5, 0.1, "error")(tokens)
    torch.testing.assert_close(state.fast[0], weight.T - 0.1 * gradient.T, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("target", ["next", "error"])
def test_any_split_gives_the_same_logits_and_the_same_matrix(target):
    reader, tokens = InPlace(model(), 0, 4, 0.1, target), text()
    whole, end = reader(tokens)
    for pieces in ([1] * 11, [3, 5, 0, 3], [8, 3]):
        state, logits = None, []
        for piece in tokens.split(pieces, dim=1):
            y, state = reader(piece, state)
            logits.append(y)
        torch.testing.assert_close(torch.cat(logits, dim=1), whole, **CLOSE)
        torch.testing.assert_close(state.fast, end.fast, **CLOSE)
        assert state.given.shape == end.given.shape


@torch.no_grad()
@pytest.mark.parametrize("target", ["next", "error"])
def test_a_chunk_is_scored_before_it_is_learned_from(target):
    plain, tokens = model(), text()
    reader = InPlace(plain, 1, 4, 0.5, target)
    logits, _ = reader(tokens)
    usual, _ = plain(tokens)
    torch.testing.assert_close(logits[:, :4], usual[:, :4], **CLOSE)
    assert (logits[:, 4:] - usual[:, 4:]).abs().min() > 1e-8
    other = tokens.clone()
    other[:, 6] = (other[:, 6] + 1) % 16
    later, _ = reader(other)
    assert torch.equal(later[:, :6], logits[:, :6])


@torch.no_grad()
def test_taps_and_target_matrix_make_the_target_as_the_paper_has_it():
    reader = InPlace(model(), 1, 6, 0.1)
    reader.taps.copy_(torch.randn(5, 8, generator=torch.Generator().manual_seed(2)))
    reader.target_matrix.copy_(torch.randn(8, 8, generator=torch.Generator().manual_seed(3)))
    e = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    conv = torch.nn.Conv1d(8, 8, 5, padding=2, groups=8, bias=False).double()
    conv.weight.copy_(reader.taps.T[:, None])
    expected = conv(e.mT).mT @ reader.target_matrix
    torch.testing.assert_close(reader.targets(e), expected, **CLOSE)


@torch.no_grad()
def test_the_clip_bounds_each_texts_change():
    tokens = text(4)
    free, bound = (InPlace(model(), 1, 4, 1.0, clip=clip) for clip in (None, 1e-3))
    start = free.init_state(2).fast
    moved = free(tokens)[1].fast - start
    clipped = bound(tokens)[1].fast - start
    torch.testing.assert_close(clipped.norm(dim=(1, 2)), torch.full((2,), 1e-3, dtype=torch.float64))
    torch.testing.assert_close(clipped / 1e-3, moved / moved.norm(dim=(1, 2), keepdim=True), rtol=1e-6, atol=1e-8)


def test_what_it_refuses():
    with pytest.raises(CourseError, match="below 2"):
        InPlace(model(), 2, 4, 0.1)
    with pytest.raises(CourseError, match="rate"):
        InPlace(model(), 0, 4, -1.0)
    with pytest.raises(CourseError, match="target"):
        InPlace(model(), 0, 4, 0.1, target="same")
    with pytest.raises(CourseError, match=r"0 \.\. 15"):
        InPlace(model(), 0, 4, 0.1)(torch.full((1, 3), 99))
