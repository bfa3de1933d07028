"""Properties that many answers are held to, so that an `exNN.py` says what it asks and little more.

A property draws its inputs from `Rng`: sizes at random, numbers in float64, the seed fixed, so that the same
answer gets the same verdict on every machine. `draw(rng)` returns the arguments of one call as a tuple.

    PROPERTIES = (
        right_shape("a row for each query comes out", draw, lambda q, k, v: (len(q), v.shape[1]), hint=1),
        causal("no query reads the future", draw, hint=2),
        equals("the numbers equal softmax attention", draw, reference, hint=3),
    )

    @holds("weights sum to one", hint=2)              # anything else: a function of the answer and the rng
    def sums_to_one(answer, rng): ...                # raises Miss, or calls `compare(expected, got)`
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nl_course.exercises.framework.answer import Miss, short, unlike
from nl_course.exercises.framework.engine import Property

Draw = Callable[["Rng"], tuple]
Test = Callable[[Callable, "Rng"], None]


class Rng:
    """A fixed sequence of random sizes and tensors: one seed, one sequence."""

    def __init__(self, seed: int):
        self._whole = random.Random(seed)
        self._normal = torch.Generator().manual_seed(seed)

    def whole(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return self._whole.randint(low, high)

    def pick(self, options: Sequence) -> Any:
        """One of the options, each equally likely."""
        return self._whole.choice(options)

    def number(self, low: float, high: float) -> float:
        """A float between `low` and `high`, uniform."""
        return self._whole.uniform(low, high)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float64."""
        return torch.randn(*shape, generator=self._normal, dtype=torch.float64)

    def tokens(self, vocab: int, *shape: int) -> Tensor:
        """Token numbers below `vocab`, int64."""
        return torch.randint(vocab, shape, generator=self._normal)


def holds(name: str, hint: int = 1, trials: int = 4) -> Callable[[Test], Property]:
    """Turns `test(answer, rng)` into a Property that runs it `trials` times, each with its own rng."""

    def to_property(test: Test) -> Property:
        """The Property that a decorated test becomes."""

        def all_trials(answer: Callable) -> None:
            """Runs the test with the seeds 0, 1, ..., so that small and large sizes both come up."""
            for seed in range(trials):
                test(answer, Rng(seed))

        return Property(name, all_trials, hint)

    return to_property


def equals(name: str, draw: Draw, reference: Callable, hint: int = 3, tolerance=1e-9) -> Property:
    """The answer gives what `reference` gives, up to `tolerance` (times the largest number expected)."""

    def gives_the_same(answer, rng):
        """Compares with the reference on one draw. Both get tensors of their own."""
        args = draw(rng)
        compare(reference(*_copy(args)), answer(*args), tolerance)

    return holds(name, hint)(gives_the_same)


def same_gradients(name: str, draw: Draw, reference: Callable, hint: int = 3, tolerance=1e-8) -> Property:
    """Gradients of the result (one tensor) by every floating-point argument equal the reference's."""

    def gradients(function, args, rng):
        """The gradient of a random weighted sum of the result, along every floating-point argument."""
        args = tuple(a.clone().requires_grad_() if _floating(a) else a for a in args)
        result = function(*args)
        if not isinstance(result, Tensor) or not result.requires_grad:
            raise Miss("a result through which gradients flow", "a result cut off from its inputs")
        inputs = [a for a in args if _floating(a)]
        weights = rng.normal(*result.shape).to(result.dtype)
        found = torch.autograd.grad((result * weights).sum(), inputs, allow_unused=True)
        return tuple(torch.zeros_like(a) if g is None else g for a, g in zip(inputs, found))

    def gradients_agree(answer, rng):
        """Compares both gradients under the same weighted sum, and names the argument that differs."""
        args = draw(rng)
        seed = rng.whole(0, 10**6)
        expected = gradients(reference, args, Rng(seed))
        for number, (e, g) in enumerate(zip(expected, gradients(answer, args, Rng(seed))), 1):
            compare(e, g, tolerance, f"gradient of argument {number}")

    return holds(name, hint)(gradients_agree)


def right_shape(name: str, draw: Draw, shape: Callable[..., tuple], hint: int = 1) -> Property:
    """The result is one tensor of shape `shape(*args)`."""

    def has_the_shape(answer, rng):
        """Looks at the shape alone, so that a wrong shape is told before wrong numbers."""
        args = draw(rng)
        expected, got = tuple(shape(*args)), answer(*args)
        if not isinstance(got, Tensor):
            raise Miss(f"a tensor of shape {expected}", f"a value of type {type(got).__name__}")
        if tuple(got.shape) != expected:
            raise Miss(f"shape {expected}", f"shape {tuple(got.shape)}")

    return holds(name, hint)(has_the_shape)


def causal(name: str, draw: Draw, hint: int = 2, axis: int = 0) -> Property:
    """Outputs up to a token stay as they are when everything after that token is changed.

    Every floating-point tensor among the arguments has its time on `axis`, and so has the result.
    """

    def ignores_the_future(answer, rng):
        """Changes everything after a random cut, and looks whether an output before it moves."""
        args = draw(rng)
        time = next(a for a in args if _floating(a)).shape[axis]
        cut = rng.whole(1, max(1, time - 1))
        changed = tuple(_later_changed(a, cut, axis, rng) if _floating(a) else a for a in args)
        before, after = (answer(*_copy(a)).narrow(axis, 0, cut) for a in (args, changed))
        moved = _largest(before - after)
        if not moved <= 1e-12:
            rows = f"rows 0 to {cut - 1}" if cut > 1 else "row 0"
            raise Miss(f"{rows} unchanged when the later ones change", f"moved by {short(moved)}")

    return holds(name, hint)(ignores_the_future)


def pure(name: str, draw: Draw, hint: int = 1) -> Property:
    """The answer leaves its arguments as they were, and gives the same result when asked again."""

    def leaves_its_inputs(answer, rng):
        """Calls twice with equal inputs: catches writes in place, and results that hang on an earlier call."""
        args = draw(rng)
        kept = _copy(args)
        first = _copy(answer(*args))
        for number, (before, after) in enumerate(zip(_tensors(kept), _tensors(args)), 1):
            if before.shape != after.shape or not torch.equal(before, after):
                raise Miss("the inputs left as they were", f"tensor number {number} among them was changed")
        compare(first, answer(*kept), 1e-12, "second call")

    return holds(name, hint)(leaves_its_inputs)


def any_size(
    name: str, sizes: Sequence[int], draw: Callable[[Rng, int], tuple], reference: Callable, hint: int = 1
) -> Property:
    """The answer equals `reference` at each of the sizes named, the smallest ones above all."""

    def right_at_each_size(answer):
        """Draws once at each size, with the size as the seed."""
        for size in sizes:
            args = draw(Rng(size), size)
            compare(reference(*_copy(args)), answer(*args), 1e-9)

    return Property(name, right_at_each_size, hint)


def compare(expected: Any, got: Any, tolerance: float = 1e-9, what: str = "") -> None:
    """Raises Miss, naming the first place that differs, unless `got` is `expected` up to the tolerance."""
    what = f"{what}: " if what else ""
    if isinstance(expected, (tuple, list)):
        if not isinstance(got, (tuple, list)) or len(got) != len(expected):
            raise Miss(f"{what}{len(expected)} results", f"{what}{short(got)}")
        for number, (e, g) in enumerate(zip(expected, got), 1):
            compare(e, g, tolerance, f"{what}result {number}")
        return
    if not isinstance(expected, Tensor):
        got = got.item() if isinstance(got, Tensor) and got.numel() == 1 else got
        exact = isinstance(expected, (int, str)) or not isinstance(got, (int, float))
        limit = tolerance * max(1.0, abs(expected)) if not exact else 0
        if got != expected if exact else not abs(got - expected) <= limit:
            raise Miss(*(what + text for text in unlike(expected, got)))
        return
    if not isinstance(got, Tensor):
        kind = type(got).__name__
        raise Miss(f"{what}a tensor of shape {tuple(expected.shape)}", f"{what}a value of type {kind}")
    if got.shape != expected.shape:
        raise Miss(f"{what}shape {tuple(expected.shape)}", f"{what}shape {tuple(got.shape)}")
    if got.dtype != expected.dtype:
        raise Miss(f"{what}numbers of {expected.dtype}, as the inputs", f"{what}numbers of {got.dtype}")
    limit = tolerance * max(1.0, _largest(expected))
    wrong = ~((got.detach() - expected.detach()).abs() <= limit)
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        place = f"entry [{', '.join(map(str, at))}] = " if at else ""
        raise Miss(*(what + place + text for text in unlike(expected[at].item(), got[at].item())))


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _largest(tensor: Tensor) -> float:
    return tensor.detach().abs().max().item() if tensor.numel() else 0.0


def _later_changed(tensor: Tensor, cut: int, axis: int, rng: Rng) -> Tensor:
    later = rng.normal(*tensor.shape).to(tensor.dtype) * 3
    return torch.cat([tensor.narrow(axis, 0, cut), later.narrow(axis, cut, tensor.shape[axis] - cut)], axis)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return type(value)(_copy(part) for part in value) if isinstance(value, (tuple, list)) else value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for part in value for t in _tensors(part)] if isinstance(value, (tuple, list)) else []
