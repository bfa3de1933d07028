"""What `tools.margins` plants in a notebook's kernel: it notes the numbers behind every comparison that a cell makes.

The code of a cell is rewritten before it runs. `a < b` becomes `_margins_.compare("a < b", ...)`, which notes both
numbers and returns what `a < b` returns, so that a notebook does the same with the probe as without it. `allclose`
and its relatives are wrapped where they live, so that those inside the package are noted too.

A note is a dict: `kind`, the `cell` that ran, the `source` of the comparison, and the numbers:
    compare   `gaps` left less right and `sizes` max(|left|, |right|), one of each per element; `tolerance`: is it a
              quantity against a tiny literal; `result`
    close     `share`: the largest |a - b| / (atol + rtol |b|); `result`
    shown     `values` that are printed to `decimals` places (None: to the last digit)
    ranked    `gaps` and `sizes` between neighbors in an order by size
    exact     whole numbers, or equality to the last bit: nothing to note
"""

import ast
import json
import linecache
import math
import operator
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

NAME = "_margins_"
TINY = 1e-3  # a literal up to here, and the comparison is one of rounding, not of two measured quantities
MOST = 10_000  # elements of one comparison that are noted one by one; of more, only the closest
ORDER = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}
EQUAL = {ast.Eq: "eq", ast.NotEq: "ne"}
SPEC = re.compile(r"(?P<sign>[+ ]?)[\d,]*\.(?P<places>\d+)(?P<type>[f%])$")


def as_floats(value: Any) -> np.ndarray | None:
    """A number or an array of numbers as float64 (n,), None for anything else."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().double().numpy()
    if isinstance(value, (bool, int, float, np.number, np.ndarray)):
        array = np.asarray(value)
        if array.dtype.kind in "biuf":
            return array.astype(np.float64)
    return None


def is_exact(value: Any) -> bool:
    """Whole numbers and truth values, alone or in an array."""
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point()
    return np.asarray(value).dtype.kind in "biu"


class Probe:
    """Collects the notes of one kernel. `cell` is set before each cell runs."""

    def __init__(self):
        self.cell = ""
        self.notes: list[dict] = []
        self.inside = 0  # how deep in wrapped functions: assert_close calls isclose, which is not noted again

    def note(self, kind: str, source: str, **numbers: Any) -> None:
        self.notes.append({"kind": kind, "cell": self.cell, "source": source, **numbers})

    def save(self, path: str) -> None:
        Path(path).write_text(json.dumps(self.notes), encoding="utf-8")

    # -- what the rewritten code calls: each does what the original does, and notes the numbers ----------------
    def compare(self, source: str, names: tuple, sides: tuple, tolerance: bool):
        """A chain `sides[0] names[0] sides[1] ...`, all of whose sides have been computed."""
        for name, left, right in zip(names, sides[:-1], sides[1:], strict=True):
            result = getattr(operator, name)(left, right)
            if name in EQUAL.values():
                self.note("exact", source)
            else:
                self._note_order(source, left, right, result, tolerance)
            if len(names) > 1 and not result:
                return result
        return result

    def _note_order(self, source: str, left: Any, right: Any, result: Any, tolerance: bool) -> None:
        a, b = as_floats(left), as_floats(right)
        if a is None or b is None:
            return
        if is_exact(left) and is_exact(right):
            self.note("exact", source)
            return
        if not np.broadcast(a, b).size:
            return
        gaps, sizes = (a - b).ravel(), np.maximum(abs(a), abs(b)).ravel()
        if gaps.size > MOST:
            closest = np.argmin(abs(gaps))
            gaps, sizes = gaps[closest : closest + 1], sizes[closest : closest + 1]
        holds = bool(np.all(as_floats(result)))
        self.note("compare", source, gaps=gaps.tolist(), sizes=sizes.tolist(), tolerance=tolerance, result=holds)

    def show(self, source: str, value: Any, spec: str):
        """A value in an f-string, with its format."""
        numbers = as_floats(value)
        if numbers is None or is_exact(value):
            return value
        places = SPEC.search(spec)
        if not spec or places:
            decimals = int(places["places"]) + 2 * (places["type"] == "%") if places else None
            signed = bool(places and places["sign"])
            self.note("shown", source, values=numbers.ravel().tolist(), decimals=decimals, signed=signed)
        return value

    def round(self, source: str, value: Any, *digits: int):
        numbers = as_floats(value)
        if numbers is not None and not is_exact(value):
            self.note("shown", source, values=[float(numbers)], decimals=digits[0] if digits else 0, signed=False)
        return round(value, *digits)

    def round_all(self, source: str, array: Any, *digits: int, **named: int):
        numbers = as_floats(array)
        if numbers is not None and not is_exact(array):
            decimals = next(iter((*digits, *named.values())), 0)
            self.note("shown", source, values=numbers.ravel().tolist(), decimals=decimals, signed=False)
        return array.round(*digits, **named)

    def rank(self, source: str, choose: Any, items: Any, key: Any, **named: Any):
        """min, max and sorted with a key: which of the names comes first, or in what order all come."""
        items = list(items)
        keys = [key(item) for item in items]
        if all(as_floats(k) is not None and as_floats(k).ndim == 0 for k in keys) and not all(map(is_exact, keys)):
            ordered = sorted(map(float, keys), reverse=choose is max)
            self._note_rank(source, ordered if choose is sorted else ordered[:2])
        return choose(items, key=key, **named)

    def arg(self, source: str, array: Any, name: str):
        """argmin and argmax of a row of numbers."""
        numbers = as_floats(array)
        if numbers is not None and numbers.ndim == 1 and not is_exact(array):
            ordered = np.sort(numbers)
            self._note_rank(source, (ordered[::-1] if name == "argmax" else ordered)[:2].tolist())
        return getattr(array, name)()

    def _note_rank(self, source: str, ordered: list[float]) -> None:
        pairs = list(pairwise(ordered))
        if pairs:
            gaps = [a - b for a, b in pairs]
            sizes = [max(abs(a), abs(b)) for a, b in pairs]
            self.note("ranked", source, gaps=gaps, sizes=sizes)

    # -- allclose and its relatives ----------------------------------------------------------------------------
    def wrap(self, module: Any, name: str, rtol: float | None, atol: float | None, words: tuple[str, str]) -> None:
        """Replaces `module.name` by itself with a note. A tolerance of None: torch.testing's, which go by the type."""
        original = getattr(module, name)

        def wrapped(a, b, *more, **named):
            relative = named.get(words[0], more[0] if more else rtol)
            absolute = named.get(words[1], more[1] if len(more) > 1 else atol)
            if relative is None or absolute is None:
                relative, absolute = default_tolerances(a, b)
            share = worst_share(a, b, relative, absolute)
            if share is not None and not self.inside:
                self.note("close", caller(), share=share, result=share <= 1)
            self.inside += 1
            try:
                return original(a, b, *more, **named)
            finally:
                self.inside -= 1

        setattr(module, name, wrapped)

    def wrap_equal(self) -> None:
        """torch.equal, which is exact."""
        original = torch.equal

        def wrapped(a, b):
            self.note("exact", caller())
            return original(a, b)

        torch.equal = wrapped


def default_tolerances(a: Any, b: Any) -> tuple[float, float]:
    """What torch.testing.assert_close takes for its own: (rtol, atol), the larger of two types'."""
    known = {torch.float16: (1e-3, 1e-5), torch.bfloat16: (1.6e-2, 1e-5), torch.float32: (1.3e-6, 1e-5)}
    types = [known.get(getattr(x, "dtype", torch.float64), (1e-7, 1e-7)) for x in (a, b)]
    return max(t[0] for t in types), max(t[1] for t in types)


def worst_share(a: Any, b: Any, rtol: float, atol: float) -> float | None:
    """The largest |a - b| / (atol + rtol |b|) of all elements; None where these are no numbers."""
    left, right = as_floats(a), as_floats(b)
    if left is None or right is None or not left.size:
        return None
    apart, allowed = abs(left - right), atol + rtol * abs(right)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(apart == 0, 0.0, apart / allowed)
    return float(np.max(np.nan_to_num(shares, nan=0.0, posinf=math.inf)))


def caller() -> str:
    """The line of code that called a wrapped function: of a cell as it stands there, else with its file."""
    frame = sys._getframe(2)
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    name = Path(frame.f_code.co_filename).name
    return line if "ipykernel" in frame.f_code.co_filename else f"{name}: {line}"


class Rewriter(ast.NodeTransformer):
    """Lets the probe make every comparison, rounding and ranking of a cell."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        source = ast.unparse(node)
        sides = [node.left, *node.comparators]
        tolerance = any(map(is_tiny, sides))
        self.generic_visit(node)
        known = {**ORDER, **EQUAL}
        if not all(type(op) in known for op in node.ops):
            return node
        names = ast.Tuple([ast.Constant(known[type(op)]) for op in node.ops], ast.Load())
        whole = ast.Tuple([node.left, *node.comparators], ast.Load())
        return call("compare", node, ast.Constant(source), names, whole, ast.Constant(tolerance))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        source = ast.Constant(ast.unparse(node))
        tolerance = any(map(is_tiny, node.args))
        self.generic_visit(node)
        if isinstance(node.func, ast.Name):
            keyed = any(word.arg == "key" for word in node.keywords)
            if node.func.id in ("min", "max", "sorted") and keyed and len(node.args) == 1:
                return call("rank", node, source, node.func, *node.args, keywords=node.keywords)
            if node.func.id == "round":
                return call("round", node, source, *node.args)
        if isinstance(node.func, ast.Attribute):
            name, array = node.func.attr, node.func.value
            if name in ORDER.values() and len(node.args) == 1:
                names, sides = (ast.Tuple(part, ast.Load()) for part in ([ast.Constant(name)], [array, node.args[0]]))
                return call("compare", node, source, names, sides, ast.Constant(tolerance))
            if name in ("argmin", "argmax") and not node.args and not node.keywords:
                return call("arg", node, source, array, ast.Constant(name))
            if name == "round":
                return call("round_all", node, source, array, *node.args, keywords=node.keywords)
        return node

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        source = ast.Constant(ast.unparse(node.value))
        self.generic_visit(node)
        if node.conversion == -1:
            spec = node.format_spec or ast.Constant("")
            node.value = call("show", node, source, node.value, spec)
        return node


def is_tiny(side: ast.AST) -> bool:
    """A literal up to TINY, alone or as a factor."""
    if isinstance(side, ast.BinOp) and isinstance(side.op, (ast.Mult, ast.Div)):
        return is_tiny(side.left) or is_tiny(side.right)
    return isinstance(side, ast.Constant) and isinstance(side.value, float) and 0 < side.value <= TINY


def call(name: str, node: ast.AST, *arguments: ast.AST, keywords: list | None = None) -> ast.AST:
    """The call `_margins_.name(...)` in the place of `node`."""
    function = ast.Attribute(ast.Name(NAME, ast.Load()), name, ast.Load())
    made = ast.Call(function, list(arguments), keywords or [])
    return ast.fix_missing_locations(ast.copy_location(made, node))


def install(shell: Any) -> Probe:
    """A probe that notes what `shell`, an IPython one, runs from now on; also under its name among the variables."""
    probe = Probe()
    shell.user_ns[NAME] = probe
    shell.ast_transformers.append(Rewriter())
    for module, rtol, atol in ((torch, 1e-5, 1e-8), (np, 1e-5, 1e-8), (torch.testing, None, None)):
        for name in ("allclose", "isclose", "assert_close"):
            if hasattr(module, name):
                probe.wrap(module, name, rtol, atol, ("rtol", "atol"))
    probe.wrap_equal()
    probe.wrap(math, "isclose", 1e-9, 0.0, ("rel_tol", "abs_tol"))
    return probe
