"""Exercise 10.3: what training holds on one of several devices, under DDP and under FSDP."""

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


@holds("one device holds 16 bytes per parameter and all activations, shared or not", hint=1)
def on_one(answer, rng):
    """Catches a missing state: with one device sharing makes no difference."""
    parameters, per_row, rows, *_ = draw_memory(rng)
    for shared in (False, True):
        compare(float(16 * parameters + per_row * rows), float(answer(parameters, per_row, rows, 1, shared)))


@holds("DDP: more devices change only the activations", hint=2)
def copied(answer, rng):
    """Catches states that are divided under DDP, and rows that are not."""
    parameters, per_row, rows, devices, _ = draw_memory(rng)
    freed = answer(parameters, per_row, rows, 1, False) - answer(parameters, per_row, rows, devices, False)
    compare(float(per_row * rows * (1 - 1 / devices)), float(freed))


@holds("FSDP: everything is divided", hint=2)
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
    aim="Know what more devices save: DDP only activations, FSDP also weights, gradients and AdamW's numbers.",
    task="""
A model with `parameters` parameters is trained in 32 bits (4 bytes per number) with AdamW, which keeps two numbers
more per parameter. One row of text costs `per_row` bytes of activations. Each step reads `rows` rows, divided equally
among `devices` devices.

Under DDP every device holds the whole model, all gradients and all of AdamW's numbers. Under FSDP (`shared` is True)
each device holds an equal part of these. (Leave out the block that FSDP gathers for the moment in which it is used.)

Write `held(parameters, per_row, rows, devices, shared)`.

* `parameters`, `per_row` (bytes), `rows` and `devices` are whole numbers; `shared` is True or False.
* Return the bytes on each device.""",
    stub='''
def held(parameters, per_row, rows, devices, shared):
    """-> bytes on one device"""
    ...
''',
    properties=(on_one, copied, shared_out, memory_equals),
    hints=(
        "Weight, gradient and AdamW's two numbers: four numbers of 4 bytes each per parameter.",
        "Rows are always divided among the devices. The four numbers per parameter are divided under FSDP only.",
        "16 * parameters, divided by devices if shared, plus per_row * rows / devices.",
    ),
    solution=solution_memory,
    wrong=(
        Wrong(
            wrong_memory_weights_only,
            "This counts the weights alone. Training holds four numbers per parameter, before any activation.",
            on_one.name,
        ),
        Wrong(
            wrong_memory_everything_divided,
            "This divides the four numbers per parameter under DDP too. There every device holds all of them.",
            copied.name,
        ),
        Wrong(
            wrong_memory_same_rows,
            "This gives every device all rows. Rows are divided among the devices under DDP and under FSDP.",
            copied.name,
        ),
        Wrong(
            wrong_memory_moments_only,
            "This divides AdamW's numbers alone, as ZeRO's first stage does. FSDP divides weights and gradients too.",
            shared_out.name,
        ),
    ),
)
