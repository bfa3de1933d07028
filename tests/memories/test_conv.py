import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv1d, pad, silu

from nl_course.errors import CourseError
from nl_course.memories.common.conv import CausalConv

CLOSE = dict(rtol=1e-12, atol=1e-12)


def conv(width=6, kernel=4, **options) -> CausalConv:
    torch.manual_seed(0)
    return CausalConv(width, kernel, **options).double()


def text(tokens, rows=2, width=6):
    return torch.randn(rows, tokens, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("kernel", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_conv1d_with_zeros_before_the_start(kernel, bias):
    layer, x = conv(kernel=kernel, bias=bias), text(9)
    y, _ = layer(x, layer.init_state(2))
    padded = pad(x.transpose(1, 2), (kernel - 1, 0))
    expected = conv1d(padded, layer.weight[:, None], layer.bias, groups=6).transpose(1, 2)
    torch.testing.assert_close(y, expected, **CLOSE)


def test_silu_comes_after_the_bias():
    plain, curved, x = conv(), conv(activation="silu"), text(5)
    torch.testing.assert_close(curved(x, curved.init_state(2))[0], silu(plain(x, plain.init_state(2))[0]), **CLOSE)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(pieces=st.lists(st.integers(0, 6), min_size=1, max_size=8), kernel=st.integers(1, 5))
def test_any_split_gives_the_same(pieces, kernel):
    layer, x = conv(kernel=kernel, activation="silu"), text(sum(pieces))
    whole, whole_state = layer(x, layer.init_state(2))
    state, outputs = layer.init_state(2), []
    for piece in x.split(pieces, dim=1):
        y, state = layer(piece, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, **CLOSE)
    assert torch.equal(state, whole_state)
    assert state.shape == (2, kernel - 1, 6)
    assert state[0].numel() == layer.state_size


def test_it_can_be_differentiated_twice():
    layer = conv(width=2, kernel=3, activation="silu")
    x, state = text(4, 1, 2).requires_grad_(), text(2, 1, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, t: layer(x, t)[0], (x, state))


def test_the_state_does_not_keep_the_text_alive():
    layer = conv()
    with torch.no_grad():
        _, state = layer(text(500), layer.init_state(2))
    assert state.untyped_storage().nbytes() == state.nbytes


def test_low_precision_sums_in_float32():
    layer, x = conv(width=64).bfloat16(), text(200, 2, 64).bfloat16()
    y, state = layer(x, layer.init_state(2))
    exact, _ = layer.double()(x.double(), layer.init_state(2))
    assert y.dtype == state.dtype == torch.bfloat16
    assert torch.equal(y, exact.bfloat16()) or (y.double() - exact).abs().max() < 2**-8 * exact.abs().max()


def test_mistakes_are_named():
    with pytest.raises(CourseError, match="kernel"):
        CausalConv(4, 0)
    with pytest.raises(CourseError, match="silu"):
        CausalConv(4, activation="sliu")
