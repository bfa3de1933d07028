"""Exercise 10.1: what a checkpoint must hold for a resumed run to be the unbroken one, bit for bit."""

import torch

from nl_course.exercises.framework.answer import Miss
from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Rng, compare, holds


def momentum_descent(state, gradient):
    """One step of descent with momentum and a rate that falls with the step, the way the exercise states it."""
    velocity = 0.9 * state["velocity"] + gradient
    rate = 0.1 / (1 + state["step"])
    return {"weights": state["weights"] - rate * velocity, "velocity": velocity, "step": state["step"] + 1}


def start(rng: Rng, size: int) -> dict:
    return {"weights": rng.normal(size), "velocity": torch.zeros(size, dtype=torch.float64), "step": 0}


def gradient(state, seed):
    """The gradient of a noisy quadratic: the noise depends on the seed and on the step's number alone."""
    noise = torch.randn(len(state["weights"]), generator=torch.Generator().manual_seed(1000 * seed + state["step"]))
    return state["weights"] + noise.double()


def run(state, steps, seed):
    for _ in range(steps):
        state = momentum_descent(state, gradient(state, seed))
    return state


def broken_off(answer, rng: Rng, first: int, rest: int) -> tuple[dict, dict]:
    """An unbroken run's last state, and that of a run that was saved by `answer` after `first` steps."""
    seed, size = rng.whole(0, 99), rng.whole(2, 5)
    begun = start(rng, size)
    halfway = run(begun, first, seed)
    saved = answer(dict(halfway), seed)
    if not isinstance(saved, dict):
        raise Miss("a dict of what is saved", f"a value of type {type(saved).__name__}")
    fresh = {**start(Rng(12345), size), "seed": 7}  # what a new process would begin with
    loaded = {name: saved.get(name, fresh[name]) for name in fresh}
    return run(halfway, rest, seed), run({k: loaded[k] for k in begun}, rest, loaded["seed"])


@holds("the weights are those that were reached", hint=1)
def weights_kept(answer, rng):
    unbroken, resumed = broken_off(answer, rng, rng.whole(1, 5), 0)
    compare(unbroken["weights"], resumed["weights"], 0)


@holds("the next step is the same step: rate and batch follow from the step's number and the seed", hint=2)
def next_step(answer, rng):
    unbroken, resumed = broken_off(answer, rng, rng.whole(2, 5), 1)
    compare(unbroken["weights"] + 0.0, resumed["weights"] + 0.0, 0)


@holds("twenty steps on, the runs are one, bit for bit", hint=2)
def far_on(answer, rng):
    unbroken, resumed = broken_off(answer, rng, 7, 20)
    compare((unbroken["weights"], unbroken["velocity"], unbroken["step"]),
            (resumed["weights"], resumed["velocity"], resumed["step"]), 0)  # fmt: skip


@holds("what is saved stays as it was when the run goes on in place", hint=3)
def a_copy(answer, rng):
    state, seed = run(start(rng, 3), 2, 1), 1
    state["weights"], kept = state["weights"].clone(), state["weights"].clone()
    saved = answer(state, seed)
    state["weights"].add_(1)
    compare(kept, saved["weights"], 0)


def solution_checkpoint(state, seed):
    return {
        "weights": state["weights"].clone(),
        "velocity": state["velocity"].clone(),
        "step": state["step"],
        "seed": seed,
    }


def wrong_checkpoint_weights(state, seed):
    return {"weights": state["weights"].clone()}


def wrong_checkpoint_no_step(state, seed):
    return {"weights": state["weights"].clone(), "velocity": state["velocity"].clone(), "seed": seed}


def wrong_checkpoint_no_velocity(state, seed):
    return {"weights": state["weights"].clone(), "step": state["step"], "seed": seed}


def wrong_checkpoint_same_tensors(state, seed):
    return {**state, "seed": seed}


RESUME = Exercise(
    id="10.1",
    title="what a checkpoint must hold",
    aim="To find that weights are not a training run: the optimizer's memory, the step and the seed belong to it.",
    task="""
A run is described by `state`, with "weights" (n,), "velocity" (n,) and "step", and by a whole number `seed`. One step:

velocity <- 0.9 velocity + gradient, then weights <- weights - 0.1 / (1 + step) velocity, then step <- step + 1,

and the gradient's noise is drawn from the seed and the step's number alone. A new process begins with other weights, no
velocity, step 0 and seed 7, puts in what it finds in your checkpoint under the names "weights", "velocity", "step" and
"seed", and goes on.

Write `checkpoint(state, seed)`: as little as makes the resumed run the unbroken one, to the last bit.

* The result: a dict with some or all of the four names. It must not change when the run goes on in place.""",
    stub='''
def checkpoint(state, seed):
    """-> a dict of what must be kept"""
    ...
''',
    properties=(weights_kept, next_step, far_on, a_copy),
    hints=(
        "Weights first. Then ask of each further quantity in the step's formula: would a new process know it?",
        "The velocity is the optimizer's memory of past gradients, the step sets the rate and, with the seed, noise.",
        "All four, and .clone() for the tensors: otherwise the checkpoint goes on training.",
    ),
    solution=solution_checkpoint,
    wrong=(
        Wrong(
            wrong_checkpoint_weights,
            "Keeps what one would ship. The first resumed step has no momentum, the first rate again and other noise.",
            next_step.name,
        ),
        Wrong(
            wrong_checkpoint_no_step,
            "The schedule begins anew at its highest rate, and batches that were read come again.",
            next_step.name,
        ),
        Wrong(
            wrong_checkpoint_no_velocity,
            "The optimizer is a memory too (06). Without it the run goes on, a little differently, and nobody notices.",
            next_step.name,
        ),
        Wrong(
            wrong_checkpoint_same_tensors,
            "Holds the run's own tensors: the next step changes the checkpoint under one's hands.",
            a_copy.name,
        ),
    ),
)
