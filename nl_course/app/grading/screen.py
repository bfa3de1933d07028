"""What an answer may use: torch, numpy and Python's own mathematics, and nothing of the course's package.

The course's package holds most of what the exercises ask for. Its checks, its solutions and the references that checks
compare with stand in it, too. So an answer is looked at twice: `refused` reads its code before it runs, and `Watched`
watches each call. None of the course's own solutions calls a function of the package, so no answer has to.

This tells borrowed answers from own ones, and keeps an answer from judging itself. It is no wall against somebody who
attacks the machine: grade strangers' work in a container, or under a user account that may do nothing else.
"""

import ast
import builtins
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import nl_course
from nl_course import limits

PACKAGE = str(Path(nl_course.__file__).parent) + os.sep
# The bell of the time limit, and the `import` of this file.
_NOT_THE_ANSWERS = {limits.__file__, __file__}
MODULE = "answers"  # the name of the module that an answer is run in
MAY_IMPORT = {
    *("torch", "numpy", "scipy", "einops", "math", "cmath", "random", "statistics", "fractions", "decimal"),
    *("itertools", "functools", "operator", "collections", "dataclasses", "typing", "enum", "abc", "copy", "heapq"),
    *("bisect", "re", "string", "time", "warnings", "numbers", "__future__"),
}
# Parts of allowed modules that lead out of them: other modules, files, processes, code out of text.
CLOSED = {
    *("sys", "os", "io", "inspect", "gc", "importlib", "builtins", "ctypes", "types", "pickle", "shutil", "pathlib"),
    *(
        "subprocess",
        "multiprocessing",
        "threading",
        "weakref",
        "traceback",
        "linecache",
        "tempfile",
        "socket",
        "signal",
    ),
    *("hub", "load", "save", "serialization", "package", "cpp_extension", "distributed", "_C", "ops", "library"),
    *("ctypeslib", "fromfile", "tofile", "memmap", "loadtxt", "savetxt", "genfromtxt", "attrgetter", "methodcaller"),
    *("f_back", "f_globals", "f_locals", "f_builtins", "f_code", "tb_frame", "tb_next", "gi_frame", "gi_code"),
    *("cr_frame", "ag_frame", "mro", "modules", "register_forward_hook", "set_default_device"),
}
NOT_CALLED = {
    *("eval", "exec", "compile", "open", "input", "breakpoint", "globals", "locals", "vars", "setattr", "delattr"),
    *("help", "exit", "quit", "get_ipython"),
}
_OFTEN_NEW = {"_", "__warningregistry__", "__builtins__"}  # what Python itself sets anew in a module
OPEN_DUNDERS = {"__init__", "__call__", "__name__", "__doc__", "__len__", "__getitem__", "__post_init__"}


class Refused(BaseException):
    """An answer used what it may not. It is no Exception, so that the answer does not catch it in passing."""


def refused(pieces: Sequence[tuple[str, ast.AST]]) -> str:
    """What the code of an answer uses that it may not, in words; an empty text if there is nothing. The pieces are
    those of one answer, each with the name of its cell."""
    imported = set()
    for _, tree in pieces:
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                imported |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    for cell, tree in pieces:
        for node in ast.walk(tree):
            words = _refused_node(node, imported)
            if words:
                return f"In {cell.strip('<>')}, line {node.lineno}, {words}"
    return ""


def _refused_node(node: ast.AST, imported: set[str]) -> str:
    if isinstance(node, ast.Import):
        paths = [alias.name for alias in node.names]
        return next(filter(None, map(_refused_import, paths)), "")
    if isinstance(node, ast.ImportFrom):
        paths = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        return next(filter(None, map(_refused_import, paths)), "")
    if isinstance(node, ast.Name):
        return _refused_name(node.id)
    if isinstance(node, ast.Attribute):
        return _refused_attribute(node, imported)
    if isinstance(node, ast.MatchClass):
        return next(filter(None, (_refused_word(word) for word in node.kwd_attrs)), "")
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
        named = node.args[1:2]
        if not named or not isinstance(named[0], ast.Constant):
            return "it looks up an attribute by a name that is not written out"
        return _refused_word(str(named[0].value))
    return ""


def _refused_import(path: str) -> str:
    top = path.partition(".")[0]
    if top == "nl_course":
        return f"it uses {path}, and an answer must not call the course's own package"
    if top not in MAY_IMPORT:
        return f"it imports {top}, which no answer needs; torch, numpy and Python's mathematics are allowed"
    return next(filter(None, map(_refused_word, path.split(".")[1:])), "")


def _refused_name(name: str) -> str:
    if name in NOT_CALLED:
        return f"it uses {name}, which no answer needs"
    is_dunder = name.startswith("__") and name not in OPEN_DUNDERS
    return f"it uses {name}, which no answer needs" if is_dunder else ""


def _refused_attribute(node: ast.Attribute, imported: set[str]) -> str:
    root = node.value
    while isinstance(root, (ast.Attribute, ast.Subscript, ast.Call)):
        root = root.func if isinstance(root, ast.Call) else root.value
    name = getattr(root, "id", "")
    if name in imported and not isinstance(node.ctx, ast.Load):
        return f"it changes {name}.{node.attr}, which belongs to everybody"
    if name == "self" and not node.attr.startswith("__"):
        return ""
    return _refused_word(node.attr)


def _refused_word(word: str) -> str:
    is_private = word.startswith("_") and word not in OPEN_DUNDERS
    return f"it uses .{word}, which no answer needs" if is_private or word in CLOSED else ""


def safe_builtins() -> dict[str, Any]:
    """Python's own functions for an answer: without those that run text as code or open files, and with an `import`
    of what is allowed only."""

    def import_allowed(name: str, *rest: Any, **named: Any) -> Any:
        """`__import__` for an answer. Modules that libraries import in turn are not asked about."""
        words = _refused_import(name)
        if words:
            raise Refused(words)
        return builtins.__import__(name, *rest, **named)

    allowed = {name: value for name, value in vars(builtins).items() if name not in NOT_CALLED}
    allowed["__import__"] = import_allowed
    return allowed


class Watched:
    """An answer, watched while it runs: raises Refused as soon as a function of the course's package is called, and for
    a result of a kind that the answer made up, which could call itself equal to anything."""

    def __init__(self, function: Callable):
        self.function = function
        self.__code__ = getattr(function, "__code__", None)  # by which a verdict finds the line that stopped
        self.fault = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the answer. Raises Refused, and whatever the answer raises."""
        sys.setprofile(self._see)
        try:
            result = self.function(*args, **kwargs)
        finally:
            sys.setprofile(None)
        if _holds_own_kind(result):
            self.fault = f"it returns a {type(result).__name__} of its own making instead of plain tensors and numbers"
        if self.fault:  # also where the answer has caught what was raised
            raise Refused(self.fault)
        return result

    def _see(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith((PACKAGE, "<nl_course.")):
            return
        if code.co_filename in _NOT_THE_ANSWERS:
            return
        module = frame.f_globals.get("__name__", "nl_course")
        self.fault = f"it calls {module}.{code.co_name}, and an answer must not call the course's own package"
        raise Refused(self.fault)


def _holds_own_kind(value: Any, depth: int = 5) -> bool:
    """Whether a result, or a part of it, is of a class that no library has."""
    kind = type(value)
    is_static = not kind.__flags__ & (1 << 9)  # made in C, for good: Py_TPFLAGS_HEAPTYPE is not set
    home = sys.modules.get(kind.__module__)
    if not is_static and getattr(home, kind.__name__, None) is not kind:
        return True
    if depth == 0 or not isinstance(value, (list, tuple, dict)):
        return False
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    return any(_holds_own_kind(part, depth - 1) for part in parts)


class Untouched:
    """Remembers what checks rely on, and puts it back: `changed()` names what an answer has replaced."""

    def __init__(self):
        from nl_course.exercises.framework import answer, engine, properties, show

        owners = (builtins, math, torch, torch.Tensor, torch.nn.functional, torch.autograd)
        ours = (answer, engine, properties, show, engine.Exercise, answer.Answer, show.Verdict)
        self.before = [(owner, dict(vars(owner))) for owner in (*owners, *ours)]

    def changed(self) -> list[str]:
        """The names of what is no longer what it was, each put back."""
        names = []
        for owner, before in self.before:
            now = vars(owner)
            for name, value in before.items():
                if name in _OFTEN_NEW or now.get(name) is value:
                    continue
                setattr(owner, name, value)
                names.append(f"{owner.__name__}.{name}")
            # A class may also hide what it inherits. Modules get new names whenever something is first used.
            added = set(vars(owner)) - set(before) if isinstance(owner, type) else set()
            for name in sorted(added):
                delattr(owner, name)
                names.append(f"{owner.__name__}.{name}")
        return names
