"""What anybody may expect of a torch optimizer, of every one of ours."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nl_course.errors import CourseError
from nl_course.optimizers import M3, OPTIMIZERS, Adam, Descent, Momentum, Muon, build_optimizer
from tests.optimizers import parameter, random, run

OURS = [name for name, kind in OPTIMIZERS.items() if issubclass(kind, Descent)]
FOREACH = {
    "momentum": Momentum,
    "adam": Adam,
    "printed adam": lambda p, **o: Adam(p, mode="printed", **o),
    "muon": Muon,
    "m3": lambda p, **o: M3(p, slow_every=3, **o),
    "printed m3": lambda p, **o: M3(p, slow_every=3, mode="printed", **o),
}
RATES = {"sgd": 0.3, "momentum": 0.03, "delta-momentum": 0.03, "deep-momentum": 0.03, "dgd": 0.1, "m3": 1e-2}
OPTIONS = {"m3": {"slow_every": 3}}


def model(seed: int = 0) -> nn.Module:
    """An embedding, norms, matrices of several shapes, biases, a convolution, and a scalar that scales the logits."""
    torch.manual_seed(seed)

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.conv = nn.Embedding(11, 16), nn.Conv1d(16, 16, 3, padding=1)
            self.layers = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
            self.out, self.scale = nn.Linear(16, 11, bias=False), nn.Parameter(torch.tensor(1.0))

        def forward(self, tokens):
            x = self.embed(tokens)
            x = x + self.conv(x.mT).mT
            return self.scale * self.out(x + self.layers(x))

    return Small()


def loss_of(net: nn.Module, step: int = 0) -> torch.Tensor:
    """Which token follows: 3 t + 1 in the integers modulo 11."""
    tokens = (torch.arange(33) + step) % 11
    return cross_entropy(net(tokens[None])[0], (3 * tokens + 1) % 11)


def build(name: str, net: nn.Module, **options) -> torch.optim.Optimizer:
    options = {"lr": RATES.get(name, 5e-3), **OPTIONS.get(name, {}), **options}
    return build_optimizer(name, net, **options)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> list[float]:
    losses = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss = loss_of(net, step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_small_training_lowers_the_loss(name):
    net = model()
    losses = train(net, build(name, net, **({"strength": 0.05} if name == "dgd" else {})), 60)
    assert losses[0] > 2.3 and sum(losses[-5:]) / 5 < 0.5 * losses[0], losses[::10]


def test_dgd_at_full_strength_keeps_every_logit_as_small_as_its_error():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(11, 16), nn.GELU(), nn.Linear(16, 11, bias=False)), torch.eye(11)
    for strength, highest in ((1.0, (0.5, 1.0)), (0.0, (3.0, 30.0))):
        optimizer = build_optimizer("dgd", net, lr=0.5, strength=strength)
        for _ in range(1000):
            optimizer.zero_grad()
            cross_entropy(net(x), torch.arange(11).roll(1)).backward()
            optimizer.step()
        least, most = highest
        assert least < net(x).max() < most


@pytest.mark.parametrize("name", OURS)
def test_a_state_dict_goes_round_and_training_goes_on_as_if_unbroken(name):
    net = model()
    optimizer = build(name, net)
    train(net, optimizer, 4)
    other = model(seed=1)
    other.load_state_dict(net.state_dict())
    fresh = build(name, other, lr=0.5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file))
    assert fresh.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert train(net, optimizer, 5, first=4) == train(other, fresh, 5, first=4)
    assert same(net, other)


@pytest.mark.parametrize("name", OURS)
def test_groups_have_their_own_settings(name):
    net, alone = model(), model()
    halves = [list(net.layers.parameters()), [p for n, p in net.named_parameters() if not n.startswith("layers")]]
    extra = {"model": net} if name == "dgd" else {}
    groups = [{"params": halves[0], "lr": 0.0}, {"params": halves[1]}]
    optimizer = OPTIMIZERS[name](groups, lr=0.01, weight_decay=0.1, **extra)
    train(net, optimizer, 3)
    for p, q in zip(net.layers.parameters(), alone.layers.parameters()):
        assert torch.equal(p, q), "a group of rate 0 moved"
    assert not any(
        torch.equal(p, q) for (n, p), q in zip(net.named_parameters(), alone.parameters()) if "layers" not in n
    )


@pytest.mark.parametrize("name", OURS)
def test_a_closure_is_called_with_gradients_on_and_its_loss_returned(name):
    net, other = model(), model()
    optimizer, plain = build(name, net), build(name, other)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(net)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert [loss.item()] == train(other, plain, 1) and same(net, other)
    assert plain.step() is None


@pytest.mark.parametrize("name", OURS)
def test_weight_decay_is_decoupled(name):
    net, other = model(), model()
    decayed, plain = (build(name, m, lr=1e-3, weight_decay=w) for m, w in ((net, 0.5), (other, 0.0)))
    train(net, decayed, 1)
    train(other, plain, 1)
    start = model()
    for p, q, s in zip(net.parameters(), other.parameters(), start.parameters()):
        wanted = q - (1e-3 * 0.5 * s if s.dim() >= 2 else 0)
        # DGD's step is a fraction of what it starts from: the erase sees the decayed weight
        torch.testing.assert_close(p, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FOREACH)
def test_all_at_once_is_one_after_the_other(name):
    shapes = [(6, 4), (4, 6), (5,), (), (4, 3, 2), (6, 4)]
    gradients = [[random(*s, seed=10 * t + i) for i, s in enumerate(shapes)] for t in range(7)]
    gradients[2][0] = None  # a parameter without a gradient falls a step behind the others
    sides = []
    for foreach in (True, False):
        params = [parameter(*s, seed=i) for i, s in enumerate(shapes)]
        run(FOREACH[name](params, lr=0.1, weight_decay=0.1, foreach=foreach), params, gradients)
        sides.append(params)
    for a, b in zip(*sides):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OURS)
def test_a_parameter_without_a_gradient_stays(name):
    net = model()
    optimizer = build(name, net, weight_decay=0.1)
    loss_of(net).backward()
    net.out.weight.grad = None
    before = net.out.weight.detach().clone()
    optimizer.step()
    assert torch.equal(net.out.weight, before)
    assert not optimizer.state[net.out.weight]


@pytest.mark.parametrize("name", OURS)
def test_bfloat16_parameters_train(name):
    net = model().bfloat16()
    losses = train(net, build(name, net, **({"strength": 0.05} if name == "dgd" else {})), 60)
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.dtype == torch.bfloat16 for p in net.parameters())


@pytest.mark.parametrize("name", OURS)
def test_bad_settings_are_named(name):
    for option, value in (("lr", -1.0), ("weight_decay", -0.1), ("lr", "fast")):
        with pytest.raises(CourseError, match=option):
            build(name, model(), **{option: value})
    with pytest.raises(CourseError, match=r"learning_rate.*lr"):
        build(name, model(), learning_rate=0.1)


@pytest.mark.parametrize("name", OURS)
def test_it_can_be_copied_and_scheduled(name):
    net = model()
    optimizer = build(name, net)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    train(net, optimizer, 1)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * RATES.get(name, 5e-3))
    assert copy.deepcopy(optimizer.state_dict())["param_groups"] == optimizer.state_dict()["param_groups"]


def test_sparse_and_complex_gradients_are_refused():
    embed = nn.Embedding(5, 3, sparse=True)
    embed(torch.tensor([1])).sum().backward()
    with pytest.raises(CourseError, match="dense, real"):
        Momentum(embed.parameters()).step()


# -- by name --
def test_an_unknown_name_is_guessed():
    with pytest.raises(CourseError, match="Did you mean 'muon'"):
        build_optimizer("moun", model())


def test_every_parameter_is_in_one_group_and_vectors_do_not_decay():
    for name in OPTIMIZERS:
        net = model()
        optimizer = build(name, net, weight_decay=0.1)
        grouped = [p for group in optimizer.param_groups for p in group["params"]]
        assert sorted(map(id, grouped)) == sorted(map(id, net.parameters()))
        for group in optimizer.param_groups:
            assert all((p.dim() >= 2) == (group["weight_decay"] > 0) for p in group["params"])


@pytest.mark.parametrize("name", ["muon", "m3"])
def test_embeddings_and_vectors_are_adams(name):
    net = model()
    adam = {id(p) for group in build(name, net).param_groups if group["adam"] for p in group["params"]}
    assert adam == {id(p) for n, p in net.named_parameters() if p.dim() < 2 or n == "embed.weight"}


def test_frozen_parameters_are_left_out():
    net = model()
    net.embed.requires_grad_(False)
    assert all(p is not net.embed.weight for g in build("muon", net).param_groups for p in g["params"])
    with pytest.raises(CourseError, match="no parameters"):
        build_optimizer("adam", net.requires_grad_(False))
