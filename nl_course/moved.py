"""Import paths of earlier versions: an old module name leads to the module that took its place.

Learners keep copies of notebooks. `import nl_course.memories.titans_core` in such a copy is answered with
`nl_course.memories.titans.neural`; a name that is gone from there raises one line that says where to look.
Packages that took the name of a module (`nl_course.training`) re-export what it held and need no line here. A public
name that changed inside a module that still exists has a line in RENAMED_NAMES, and the module asks `renamed_name`.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = "nl_course."

MOVED = {
    "bench": "benches.__main__",
    "capstone": "views.capstone",
    "checkpoint": "training.checkpoint",
    "claims": "record.claims",
    "cli": "app.cli",
    "distributed": "training.distributed",
    "doctor": "app.doctor",
    "estimate": "training.estimate",
    "exercises.answer": "exercises.framework.answer",
    "exercises.engine": "exercises.framework.engine",
    "exercises.ex01_beyond": "exercises.ex01.beyond",
    "exercises.ex03_beyond": "exercises.ex03.beyond",
    "exercises.ex04_inside": "exercises.ex04.inside",
    "exercises.ex05_chunk": "exercises.ex05.chunk",
    "exercises.ex05_dual": "exercises.ex05.dual",
    "exercises.ex06_optimisers": "exercises.ex06.optimizers",
    "exercises.ex07_gain": "exercises.ex07.gain",
    "exercises.ex08_sceptic": "exercises.ex08.ablations",
    "exercises.ex08_stream": "exercises.ex08.stream",
    "exercises.ex09_hybrid": "exercises.ex09.hybrid",
    "exercises.ex10_memory": "exercises.ex10.memory",
    "exercises.ex10_resume": "exercises.ex10.resume",
    "exercises.form": "exercises.framework.form",
    "exercises.properties": "exercises.framework.properties",
    "exercises.show": "exercises.framework.show",
    "exercises.student": "app.student",
    "interrupts": "training.interrupts",
    "lab": "app.lab",
    "memories.as_attention": "memories.ablations.as_attention",
    "memories.cache": "memories.attention.cache",
    "memories.chunks": "memories.linear.chunks",
    "memories.conv": "memories.common.conv",
    "memories.delta": "memories.linear.delta",
    "memories.gate": "memories.common.gate",
    "memories.hope_chunk": "memories.hope.chunk",
    "memories.hope_config": "memories.hope.config",
    "memories.hope_core": "memories.hope.bank",
    "memories.hope_gain": "memories.ablations.gain",
    "memories.hope_reference": "memories.hope.reference",
    "memories.hope_steps": "memories.ablations.hope_inner_steps",
    "memories.hope_trace": "memories.hope.trace",
    "memories.inner": "memories.common.inner_model",
    "memories.latent": "memories.attention.latent",
    "memories.matrix": "memories.linear.layer",
    "memories.more_steps": "memories.ablations.inner_steps",
    "memories.raw": "memories.common.custom_vjp",
    "memories.rope": "memories.attention.rope",
    "memories.sceptic": "memories.ablations.switches",
    "memories.titans_attention": "memories.titans.attention",
    "memories.titans_chunk": "memories.titans.chunk",
    "memories.titans_core": "memories.titans.neural",
    "memories.titans_mac": "memories.titans.mac",
    "memories.titans_mag": "memories.titans.mag",
    "memories.titans_mal": "memories.titans.mal",
    "memories.titans_parts": "memories.titans.hybrid",
    "memories.titans_pooled": "memories.ablations.pooled",
    "memories.titans_trace": "memories.titans.trace",
    "memories.ttt_backward": "memories.ttt.fused_backward",
    "memories.ttt_dual": "memories.ttt.dual",
    "memories.ttt_fast": "memories.ttt.fused",
    "memories.ttt_kernels": "memories.ttt.fused_kernels",
    "memories.ttt_official": "official.ttt",
    "memories.ttt_trace": "memories.ttt.trace",
    "nested.e2e_official": "official.e2e",
    "nested.reader": "nested.inner_loop",
    "options": "app.options",
    "run_folder": "training.run_folder",
    "run_table": "training.run_table",
    "schedule": "training.schedule",
    "sharded_checkpoint": "training.sharded_checkpoint",
    "train_command": "app.train_command",
    "tasks.books": "tasks.documents",
    "training_run": "training.runner",
    "views.charts": "views.kit.charts",
    "views.clocks_drawing": "views.clocks",
    "views.frontier_drawing": "views.frontier",
    "views.microscope_drawing": "views.inner_microscope",
    "views.million_books_drawing": "views.million_books",
    "views.nested_clocks_drawing": "views.nested_clocks",
    "views.optimisers": "views.optimizers",
    "views.optimisers_drawing": "views.optimizers",
    "views.optimizers_drawing": "views.optimizers",
    "views.paradox_board_drawing": "views.paradox_board",
    "views.parts": "views.kit.parts",
    "views.second_reading_drawing": "views.second_reading",
    "views.self_modification_drawing": "views.self_modification",
    "views.shell": "views.kit.shell",
    "views.surprise_stream": "views.stage",  # the stage shows it with a trained memory
    "views.sync": "views.kit.sync",
    "views.theme": "views.kit.theme",
    "views.two_loops": "views.stage",  # the stage's second dial shows what this view showed
    "views.training_board_drawing": "views.training_board",
    "views.wiring_drawing": "views.wiring",
}

RENAMED_NAMES = {
    "views.optimizers": {"Optimisers": "Optimizers"},
    "scaling": {"desk": "memory_budget", "training_desk": "training_budget"},
}


def renamed_name(module: str, name: str) -> object:
    """What `name` of `module` is called today; a module's `__getattr__` ends here. Raises AttributeError, as Python
    does, for a name that never was."""
    today = RENAMED_NAMES.get(module.removeprefix(_PACKAGE), {}).get(name)
    if today is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    return getattr(import_module(module), today)


class _Alias(ModuleType):
    """Stands in for a module that moved, and asks its successor for every name."""

    def __getattr__(self, name: str) -> object:
        successor = _PACKAGE + MOVED[self.__name__.removeprefix(_PACKAGE)]
        if name.startswith("__"):
            raise AttributeError(name)
        today = RENAMED_NAMES.get(successor.removeprefix(_PACKAGE), {}).get(name, name)
        try:
            return getattr(import_module(successor), today)
        except AttributeError:
            raise ImportError(
                f"{self.__name__} is now {successor}, which has no {name!r}; `nl-course lab --copy` updates a copy."
            ) from None


class _Finder:
    """Finds and loads; asked last, when no file has the name. Python asks for methods, not for base classes, and those
    of `importlib.abc` would take longer to import than all that the command line needs before it can start."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """A way to import `fullname` if it is a name of then, else None, which lets Python say that there is none."""
        if fullname.removeprefix(_PACKAGE) in MOVED:
            return ModuleSpec(fullname, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The stand-in for the module of that name."""
        return _Alias(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: the successor is imported when a name is asked for."""

    def get_code(self, fullname: str) -> object:
        """For `python -m OLD.NAME`: runs the successor as a program."""
        successor = _PACKAGE + MOVED[fullname.removeprefix(_PACKAGE)]
        # A process that was started with "spawn" runs its parent's program again under the name `__mp_main__`, only to
        # have what it defines. So the name is passed on, and the definitions are left where pickle looks for them.
        program = f"runpy.run_module({successor!r}, run_name=__name__, alter_sys=True)"
        source = f"import runpy\nglobals().update({program})"
        return compile(source, f"<{fullname}>", "exec")


def install() -> None:
    """Makes Python ask here for `nl_course` modules that no file holds. Called once, by the package."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
