"""Exercise 10.3: what training holds on one of several devices, copied or shared out."""

from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Rng, compare, equals, holds

BYTES = 4  # of a number in fp32


def draw_memory(rng: Rng):
    """0.1 to 9 million parameters, 0.1 to 5 MB per row, 8 to 32 rows, 2 to 8 devices, either way of sharing."""
    per_row = rng.whole(1, 50) * 10**5
    return rng.whole(1, 90) * 10**5, per_row, rng.pick((2, 4, 8)) * 4, rng.pick((2, 4, 8)), rng.pick((True, False))


def by_hand(parameters, per_row, rows, devices, shared):
    """Bytes on one device: four numbers per parameter, and the rows that the device has."""
    states = 4 * BYTES * parameters
    return states / (devices if shared else 1) + per_row * rows / devices


@holds("one device holds 16 bytes a parameter and all activations, whichever way", hint=1)
def on_one(answer, rng):
    """Catches a missing state: with one device sharing makes no difference."""
    parameters, per_row, rows, *_ = draw_memory(rng)
    for shared in (False, True):
        compare(float(16 * parameters + per_row * rows), float(answer(parameters, per_row, rows, 1, shared)))


@holds("copied: more devices change the activations alone", hint=2)
def copied(answer, rng):
    """Catches states that are divided under DDP, and rows that are not."""
    parameters, per_row, rows, devices, _ = draw_memory(rng)
    freed = answer(parameters, per_row, rows, 1, False) - answer(parameters, per_row, rows, devices, False)
    compare(float(per_row * rows * (1 - 1 / devices)), float(freed))


@holds("shared out: everything is divided", hint=2)
def shared_out(answer, rng):
    """Catches a share of the states that stays whole under FSDP."""
    parameters, per_row, rows, devices, _ = draw_memory(rng)
    one = answer(parameters, per_row, rows, 1, True)
    compare(float(one / devices), float(answer(parameters, per_row, rows, devices, True)))


memory_equals = equals("the bytes on each device", draw_memory, by_hand, hint=3)


def solution_memory(parameters, per_row, rows, devices, shared):
    """16 P bytes of states, divided by D if shared, plus per_row rows / D (P parameters, D devices)."""
    states = 16 * parameters  # weights, gradients, two moments, 4 bytes each
    activations = per_row * rows / devices
    return (states / devices if shared else states) + activations


def wrong_memory_weights_only(parameters, per_row, rows, devices, shared):
    """Counts weights alone, as when a model is served."""
    weights = 4 * parameters
    return (weights / devices if shared else weights) + per_row * rows / devices


def wrong_memory_everything_divided(parameters, per_row, rows, devices, shared):
    """Divides the states in both ways, as if DDP did not copy them."""
    return (16 * parameters + per_row * rows) / devices


def wrong_memory_same_rows(parameters, per_row, rows, devices, shared):
    """Gives every device all rows, as if DDP copied the batch too."""
    states = 16 * parameters
    return (states / devices if shared else states) + per_row * rows


def wrong_memory_moments_only(parameters, per_row, rows, devices, shared):
    """Shares out the moments and keeps weights and gradients whole, as ZeRO's first stage does."""
    moments = 8 * parameters
    return 8 * parameters + (moments / devices if shared else moments) + per_row * rows / devices


MEMORY = Exercise(
    id="10.3",
    title="what one device holds",
    aim="To know what more devices relieve: DDP activations only, FSDP also weights, gradients and moments.",
    task="""
A model of `parameters` numbers is trained in fp32 (4 bytes a number) with AdamW, which keeps two moments a parameter. A
row of text costs `per_row` bytes of activations. `rows` rows a step, all devices together, are divided among `devices`.

Under DDP every device holds all of the model, its gradients and its moments. Under FSDP (`shared` is True) each holds
an equal part of all three. (A block that is gathered for the moment of its use is left out here.)

Write `held(parameters, per_row, rows, devices, shared)`.

* `parameters`, `per_row` (bytes), `rows`, `devices`: whole numbers; `shared`: True or False.
* The result: bytes on each device.""",
    stub='''
def held(parameters, per_row, rows, devices, shared):
    """-> bytes on one device"""
    ...
''',
    properties=(on_one, copied, shared_out, memory_equals),
    hints=(
        "Weights, gradients and two moments: four numbers of 4 bytes each for every parameter.",
        "Rows are always divided among the devices. The four numbers a parameter are divided under FSDP only.",
        "16 * parameters, divided by devices if shared, plus per_row * rows / devices.",
    ),
    solution=solution_memory,
    wrong=(
        Wrong(
            wrong_memory_weights_only,
            "Counts the weights as if the model were served. Training holds four times as much before any activation.",
            on_one.name,
        ),
        Wrong(
            wrong_memory_everything_divided,
            "Divides the states under DDP too: but there every device holds a whole copy of them.",
            copied.name,
        ),
        Wrong(
            wrong_memory_same_rows,
            "Gives every device all rows. They are divided in both ways; that is what DDP does relieve.",
            copied.name,
        ),
        Wrong(
            wrong_memory_moments_only,
            "Shares out the moments alone, as ZeRO's first stage does. FSDP shares out weights and gradients too.",
            shared_out.name,
        ),
    ),
)
