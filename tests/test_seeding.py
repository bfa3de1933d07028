"""The course seeds torch for its own draws only: a caller's random numbers go on as if it had drawn none."""

import ast
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from nl_course.app.doctor import step_seconds
from nl_course.benches import e2e, hope, memories, titans_peer
from nl_course.benches.measure import matmul_rate
from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import LevelConfig, NestedConfig, NestedLanguageModel, from_pretrained_blocks
from nl_course.nested.e2e import reconfigured
from nl_course.record import optimizers, parts, scaling
from nl_course.record.sizes import settings
from nl_course.seeding import seeded
from nl_course.suite.case import Case, build
from nl_course.suite.template import MyConfig, MyMemory
from nl_course.tasks.text import hashed
from nl_course.training import TrainingConfig, train
from nl_course.training.checkpoint import load_model, save_model
from nl_course.training.estimate import estimate, probe
from nl_course.training.runner import Plan
from tests.generators import unchanged

ROOT = Path(__file__).resolve().parent.parent
SMALL = ModelConfig(vocab=16, width=8, layers=1, heads=2, hidden=8)
STREAM = torch.arange(300).remainder(16).to(torch.uint8)


def two_steps(**options) -> TrainingConfig:
    return TrainingConfig(steps=2, batch_size=2, length=6, warmup=0, save_every=0, evaluate_every=1, **options)


# -- the one way to seed -----------------------------------------------------------------------------------------------
def test_inside_the_draws_are_those_of_the_seed_and_outside_nothing_is_seen_of_it():
    torch.manual_seed(5)
    expected = torch.randn(3)
    with unchanged() as changed:
        with seeded(5):
            assert torch.equal(torch.randn(3), expected)
            with seeded(6):
                torch.randn(3)
            inner = torch.randn(3)
        with pytest.raises(KeyError), seeded(5):
            raise KeyError
    assert not changed
    torch.manual_seed(5)
    assert torch.equal(torch.randn(6)[:3], expected)
    torch.manual_seed(5)
    torch.randn(3)
    assert torch.equal(torch.randn(3), inner), "a seeded block within another one is as if it were not there"


def test_it_decorates_a_function_and_draws_anew_at_every_call():
    draw = seeded(5)(lambda: torch.randn(3))
    assert torch.equal(draw(), draw())


@pytest.mark.parametrize("seed", [-1, 0.5, 2**63, True, "0", None])
def test_a_seed_that_is_none_is_refused(seed):
    with unchanged() as changed, pytest.raises(CourseError, match="seed must be a whole number"), seeded(seed):
        pass
    assert not changed


def test_two_threads_do_not_draw_from_each_others_seed():
    def weights(seed: int) -> torch.Tensor:
        with seeded(seed):
            return nn.Linear(40, 40).weight.detach()

    expected = {seed: weights(seed) for seed in (1, 2)}
    inside, wrong = threading.Event(), []

    def other() -> None:
        with seeded(2):
            inside.set()
        for _ in range(100):
            if not torch.equal(weights(2), expected[2]):
                wrong.append(2)

    with unchanged() as changed:
        with seeded(1):
            thread = threading.Thread(target=other)
            thread.start()
            assert not inside.wait(0.2), "two threads are inside at once"
            assert torch.equal(nn.Linear(40, 40).weight, expected[1])
        for _ in range(100):
            if not torch.equal(weights(1), expected[1]):
                wrong.append(1)
        thread.join()
    assert inside.is_set() and not wrong and not changed


@pytest.mark.gpu
def test_the_generators_of_gpus_are_put_back_too():
    torch.cuda.init()
    before = torch.cuda.get_rng_state()
    with seeded(5):
        first = torch.randn(3, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    with seeded(5):
        assert torch.equal(torch.randn(3, device="cuda"), first)


SEEDING = {"manual_seed", "manual_seed_all", "seed", "seed_all", "set_rng_state", "set_rng_state_all", "fork_rng"}


def seedings(source: str) -> Iterator[str]:
    """Line and call of everything in `source` that seeds a global generator, or may put one into another state.

    `Generator().manual_seed(...)` is fine, and so is a `seed` that is no call of torch, NumPy or `random`.
    """
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute) or node.attr not in SEEDING | {"setstate", "set_state"}:
            continue
        root = node.value
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id in ("torch", "np", "numpy", "random"):
            yield f"{node.lineno}: {ast.unparse(node)}"


def test_no_other_code_seeds_a_global_generator():
    found = []
    for folder in ("nl_course", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name != "seeding.py":
                found += [f"{path.relative_to(ROOT)}:{line}" for line in seedings(path.read_text("utf-8"))]
    assert not found, "\n".join(found)
    assert list(seedings((ROOT / "nl_course" / "seeding.py").read_text("utf-8")))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("torch.manual_seed(0)", True),
        ("torch.cuda.manual_seed_all(0)", True),
        ("torch.random.fork_rng()", True),
        ("torch.default_generator.manual_seed(0)", True),
        ("np.random.seed(0)", True),
        ("random.seed(0)", True),
        ("random.setstate(s)", True),
        ("torch.Generator().manual_seed(0)", False),
        ("generator.manual_seed(0)", False),
        ("task.seed", False),
        ("random.Random(0)", False),
    ],
)
def test_what_seeds_is_told_from_what_does_not(line, found):
    assert bool(list(seedings(line))) is found


# -- training ----------------------------------------------------------------------------------------------------------
def test_training_leaves_the_callers_random_numbers_alone():
    model = LanguageModel(SMALL)
    with unchanged() as changed:
        train(model, STREAM, two_steps(), held_out=STREAM, progress=False)
    assert not changed


def test_models_that_are_made_in_a_loop_around_a_training_run_start_differently():
    torch.manual_seed(0)
    starts = []
    for _ in range(3):
        model = LanguageModel(SMALL)
        starts.append(model.embedding.weight.detach().clone())
        train(model, STREAM, two_steps(), progress=False)
    assert not torch.equal(starts[1], starts[2]) and not torch.equal(starts[0], starts[1])


def test_between_steps_the_caller_draws_from_its_own_numbers():
    def drawn(with_training: bool) -> list[float]:
        torch.manual_seed(3)
        draws = []

        def on_step(line):
            draws.append(float(torch.randn(())))

        if with_training:
            train(twin, STREAM, two_steps(), on_step=on_step, progress=False)
        else:
            on_step({})
            on_step({})
        return draws

    twin = LanguageModel(SMALL)
    assert drawn(True) == drawn(False)


class Dropping(nn.Module):
    """Draws at random in every forward pass."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(16, 16)

    def forward(self, tokens, state=None):
        return nn.functional.dropout(self.embedding(tokens), 0.5, self.training), state


def test_a_step_draws_what_its_number_says_whatever_came_before():
    """As it always did: recordings and resumed runs depend on it."""
    seen = []

    def data(step: int):
        seen.append(torch.rand(2).tolist())
        return STREAM[:12].view(2, 6).long(), STREAM[1:13].view(2, 6).long()

    losses = []
    for caller in (1, 2):
        torch.manual_seed(0)
        model = Dropping()
        torch.manual_seed(caller)
        losses.append(train(model, data, two_steps(seed=7), progress=False).losses)
    assert losses[0] == losses[1]
    expected = []
    for step in (0, 1):
        torch.manual_seed(hashed(f"7 {step}"))
        expected.append(torch.rand(2).tolist())
    assert seen == expected * 2


# -- everything else that draws ----------------------------------------------------------------------------------------
NESTED = NestedConfig(16, 8, 1, 2, (LevelConfig(8, 4),))


class Given(NamedTuple):
    """What a call is given, made beforehand: who makes a model asks for draws."""

    folder: Path
    model: LanguageModel
    nested: NestedLanguageModel
    checkpoint: Path


CALLS = {
    "a plan's model": lambda given: Plan("delta", steps=2).build(),
    "a probe": lambda given: probe(given.model, STREAM, two_steps(), steps=1),
    "an estimate": lambda given: estimate(SMALL, two_steps()),
    "a checkpoint": lambda given: load_model(given.checkpoint),
    "a reconfigured model": lambda given: reconfigured(given.nested, NESTED),
    "levels from a transformer": lambda given: from_pretrained_blocks(given.model, 4),
    "the doctor's step": lambda given: step_seconds(rows=1, length=8, repeats=1),
    "a memory under test": lambda given: build(Case("mine", lambda: MyMemory(MyConfig(8, 2)))),
    "a recipe's model": lambda given: parts.trained(SMALL, STREAM, two_steps(), given.folder / "run"),
    "the law's model": lambda given: law(),
    "the optimizers' steps": lambda given: optimizers.step_times(few_arms()),
    "a bench's delta rule": lambda given: memories.build("Gated DeltaNet"),
    "a bench's HOPE": lambda given: hope.build(next(iter(hope.CASES))),
    "a bench's Titans": lambda given: titans_peer.ours(),
    "a bench's TTT-E2E": lambda given: e2e.build("without"),
    "a bench's measure": lambda given: matmul_rate(size=8, rounds=1),
}


def law() -> dict:
    config = dict(seed=0, batch_size=2, length=6, rate_at_width_32=0.01, rate_power=1.0, warmup=0, weight_decay=0.1)
    shape = dict(vocab=16, width=8, layers=1, heads=2, hidden=8)
    return scaling.one_run(config, shape, 24, {"train": STREAM, "held_out": STREAM}, "cpu")


def few_arms() -> dict:
    config = settings("optimizers", quick=True)
    return {**config, "arms": dict(list(config["arms"].items())[:1]), "timed_rounds": 1, "timed_steps": 1}


@pytest.mark.parametrize("name", CALLS)
def test_it_leaves_the_callers_random_numbers_alone(name, tmp_path):
    model = LanguageModel(SMALL)
    save_model(model, tmp_path / "small.safetensors")
    given = Given(tmp_path, model, NestedLanguageModel(NESTED), tmp_path / "small.safetensors")
    with unchanged() as changed:
        CALLS[name](given)
    assert not changed


def test_what_changes_them_is_noticed():
    for name, draw in (
        ("torch", lambda: torch.randn(1)),
        ("numpy", lambda: np.random.rand()),
        ("random", random.random),
        ("torch", lambda: torch.manual_seed(0)),
    ):
        with unchanged() as changed:
            draw()
        assert changed == [name]
