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
    """A new run's state: random weights (size,), no velocity, step 0."""
    return {"weights": rng.normal(size), "velocity": torch.zeros(size, dtype=torch.float64), "step": 0}


def gradient(state, seed):
    """The gradient of a noisy quadratic: the noise depends on the seed and on the step's number alone."""
    noise = torch.randn(len(state["weights"]), generator=torch.Generator().manual_seed(1000 * seed + state["step"]))
    return state["weights"] + noise.double()


def run(state, steps, seed):
    """The state after so many more steps, without changing the one that came in."""
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


@holds("the weights are those that the run had reached", hint=1)
def weights_kept(answer, rng):
    """Catches a checkpoint of something other than the latest weights."""
    unbroken, resumed = broken_off(answer, rng, rng.whole(1, 5), 0)
    compare(unbroken["weights"], resumed["weights"], 0)


@holds("the next step is the same step: rate and batch follow from the step's number and the seed", hint=2)
def next_step(answer, rng):
    """Catches a missing velocity, step or seed: each of them changes the very next step."""
    unbroken, resumed = broken_off(answer, rng, rng.whole(2, 5), 1)
    compare(unbroken["weights"] + 0.0, resumed["weights"] + 0.0, 0)


@holds("after twenty more steps the two runs are equal, bit for bit", hint=2)
def far_on(answer, rng):
    """Catches a difference that is too small to see after one step. The comparison is exact."""
    unbroken, resumed = broken_off(answer, rng, 7, 20)
    compare((unbroken["weights"], unbroken["velocity"], unbroken["step"]),
            (resumed["weights"], resumed["velocity"], resumed["step"]), 0)  # fmt: skip


@holds("what was saved does not change when the run goes on in place", hint=3)
def a_copy(answer, rng):
    """Catches a checkpoint that shares its tensors with the run."""
    state, seed = run(start(rng, 3), 2, 1), 1
    state["weights"], kept = state["weights"].clone(), state["weights"].clone()
    saved = answer(state, seed)
    state["weights"].add_(1)
    compare(kept, saved["weights"], 0)


def solution_checkpoint(state, seed):
    """Copies of weights and velocity, (n,) each, and the two whole numbers step and seed."""
    return {
        "weights": state["weights"].clone(),
        "velocity": state["velocity"].clone(),
        "step": state["step"],
        "seed": seed,
    }


def wrong_checkpoint_weights(state, seed):
    """Keeps the weights alone, as a finished model is kept."""
    return {"weights": state["weights"].clone()}


def wrong_checkpoint_no_step(state, seed):
    """Forgets the step, on which both the rate and the noise depend."""
    return {"weights": state["weights"].clone(), "velocity": state["velocity"].clone(), "seed": seed}


def wrong_checkpoint_no_velocity(state, seed):
    """Forgets the optimizer's own memory."""
    return {"weights": state["weights"].clone(), "step": state["step"], "seed": seed}


def wrong_checkpoint_same_tensors(state, seed):
    """Puts the run's own tensors into the dict, as if a dict were a copy."""
    return {**state, "seed": seed}


RESUME = Exercise(
    id="10.1",
    title="what a checkpoint must hold",
    aim="See that a training run is more than its weights: it has the optimizer's memory, the step and the seed.",
    task="""
A training run is described by `state`, a dict with "weights" (n,), "velocity" (n,) and "step", and by a whole number
`seed`. One step does three things, in this order:

1. velocity becomes 0.9 velocity + gradient;
2. weights become weights - 0.1 / (1 + step) velocity;
3. step becomes step + 1.

The gradient contains noise, drawn from the seed and the step's number alone. A new process starts with other weights,
a velocity of zero, step 0 and seed 7. It replaces these by what your checkpoint holds under the names "weights",
"velocity", "step" and "seed". Then it goes on.

Write `checkpoint(state, seed)`. Keep no more than the resumed run needs to equal the unbroken one, to the last bit.

* Return a dict with some or all of the four names. It must not change when the run goes on in place.""",
    stub='''
def checkpoint(state, seed):
    """-> a dict of what must be kept"""
    ...
''',
    properties=(weights_kept, next_step, far_on, a_copy),
    hints=(
        "Keep the weights. Then ask for every other quantity in the formulas: would a new process know it?",
        "The velocity is the optimizer's memory. The step sets the rate. Seed and step together set the noise.",
        "Keep all four, and use .clone() for the tensors. Otherwise the run goes on changing your checkpoint.",
    ),
    solution=solution_checkpoint,
    wrong=(
        Wrong(
            wrong_checkpoint_weights,
            "This keeps the weights alone. The resumed run has no velocity, starts at step 0, and draws other noise.",
            next_step.name,
        ),
        Wrong(
            wrong_checkpoint_no_step,
            "This forgets the step. The rate starts again at its highest value, and old noise comes again.",
            next_step.name,
        ),
        Wrong(
            wrong_checkpoint_no_velocity,
            "This forgets the velocity. The optimizer is a memory too (06): without it the run goes on differently.",
            next_step.name,
        ),
        Wrong(
            wrong_checkpoint_same_tensors,
            "This keeps the run's own tensors. If the run changes them in place, the checkpoint changes too.",
            a_copy.name,
        ),
    ),
)
