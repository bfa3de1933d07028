"""`nl-course`: open the course, look at the machine, train a model, make the recordings again.

Exit codes, the same for every command (their names stand in `nl_course/errors.py`):

    0     DONE          what was asked for is done
    1     FOUND         done, and something was found to be wrong: `doctor` a thing that must be fixed, `check-memory` a
                        property that does not hold, `export` a cell that failed, `runs` a run that cannot be read,
                        `grade` a submission that cannot be read
    2     REFUSED       not done, for a reason outside of the course: a mistake in the options, a damaged file, a full
                        disk, too little memory. One line on stderr names it. A mistake in the options is named before
                        any file is touched
    3     FAULT         not done, because the course itself has a fault. One line says which; with NL_COURSE_STRICT=1 it
                        is a traceback
    130   INTERRUPTED   ended by ctrl-C, which `train` uses to save the run first. Before a command begins its work,
                        ctrl-C ends the process itself, and a shell reports the same number

`lab` ends with the exit code of JupyterLab.
"""

import argparse
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from nl_course import __version__
from nl_course.app.options import device_named
from nl_course.errors import (
    DONE,
    FAULT,
    FOUND,
    INTERRUPTED,
    REFUSED,
    CourseError,
    check_choice,
    check_int,
    is_out_of_memory,
    shortened,
)
from nl_course.files import reason

# Each command imports what it needs inside its own functions: `nl-course lab` must not wait for torch.


# What argparse says of `--steps ten`.
_NO_NUMBER = re.compile(r"invalid (int|float) value: '(.*)'$", re.S)


def _no_number(match: re.Match) -> str:
    return f"must be a {'whole number' if match[1] == 'int' else 'number'}, not {shortened(match[2])}"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that complains like the rest of the course: in one line, with a guess at what was meant."""

    def __init__(self, *arguments: Any, **options: Any):
        # Abbreviations are off: `--presett` should be corrected, not read as something else.
        super().__init__(
            *arguments, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str) -> NoReturn:
        """Raises CourseError instead of printing the usage and leaving."""
        message = _NO_NUMBER.sub(_no_number, message.removeprefix("argument "))
        raise CourseError(f"{message} (see `{self.prog} --help`)")

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As in argparse, but what is not known raises CourseError here, where the command's own options are known."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            name = unknown[0].split("=")[0]
            close = get_close_matches(name, known, n=1) if name.startswith("-") else []
            guess = f"; did you mean {close[0]}?" if close else ""
            self.error(f"{unknown[0]!r} is not understood here{guess}")
        self._refuse_empty(options)
        return options, unknown

    def _refuse_empty(self, options: argparse.Namespace) -> None:
        """No option means anything by an empty text: as a path it would be the folder that one stands in."""
        for action in self._actions:
            value = getattr(options, action.dest, None)
            values = value if isinstance(value, list) else [value]
            if any(isinstance(text, str) and not text.strip() for text in values):
                name = action.option_strings[0] if action.option_strings else action.metavar or action.dest
                self.error(f"{name} must not be empty")


# -- the commands -----------------------------------------------------------------------------------------------
def add_lab(commands: argparse._SubParsersAction) -> None:
    """Adds `lab`."""
    parser = commands.add_parser("lab", help=COMMANDS["lab"][1])
    parser.description = (
        "Opens your own copy of the course: my_course in the checkout, or nested-learning in your home folder where\n"
        "the course was installed as a wheel or its folder cannot be written. The copy follows the course. What you\n"
        "changed there is never overwritten."
    )
    parser.add_argument("--copy", metavar="DIR", help="keep the copy in DIR instead")
    parser.add_argument(
        "--in-place", action="store_true", help="open the checkout's own notebooks, to work on the course itself"
    )
    parser.add_argument(
        "--reset", metavar="NOTEBOOK", help="put one notebook of the copy back, keeping yours beside it"
    )
    parser.add_argument("--student", action="store_true", help=argparse.SUPPRESS)  # of earlier versions
    parser.add_argument("--no-browser", action="store_true", help="print the address instead of opening a browser")
    parser.add_argument("--no-start", action="store_true", help="make or update the copy and stop there")
    parser.add_argument("--port", type=int, help="the port to use (default: the next free one from 8888)")
    parser.set_defaults(run=run_lab)


def run_lab(options: argparse.Namespace) -> int:
    """Makes or updates the learner's copy and opens JupyterLab on it; returns the exit code."""
    from nl_course.app import lab

    if options.port is not None:
        check_int("--port", options.port, 1, 65535)
    if options.student:
        raise CourseError("lab --student is gone; `nl-course student DIR` writes the course without its solutions.")
    if options.in_place:
        for name in ("copy", "reset", "no_start"):
            if getattr(options, name):
                raise CourseError(f"--{name.replace('_', '-')} is about a copy; leave out --in-place.")
        if not lab.is_checkout():
            raise CourseError("--in-place is for a checkout of the course; this one was installed, so open a copy.")
        return lab.launch(None, not options.no_browser, options.port)
    result = lab.copy_course(options.copy or lab.own_copy(), options.reset)
    print(f"Your copy of the course: {result.folder}\n{result}", flush=True)
    if options.no_start:
        return DONE
    return lab.launch(result.folder, not options.no_browser, options.port)


def add_doctor(commands: argparse._SubParsersAction) -> None:
    """Adds `doctor`."""
    parser = commands.add_parser("doctor", help=COMMANDS["doctor"][1])
    # It loads torch to see whether it can be loaded, and has nothing to save: ctrl-C simply ends it.
    parser.set_defaults(run=run_doctor, ctrl_c_ends=True)


def run_doctor(options: argparse.Namespace) -> int:
    """Prints the diagnosis; returns 1 if something must be fixed."""
    from nl_course.app.doctor import doctor

    print("Looking at this machine; the first time takes about ten seconds.", flush=True)
    diagnosis = doctor()
    print(diagnosis)
    return DONE if diagnosis.ok else FOUND


def add_record(commands: argparse._SubParsersAction) -> None:
    """Adds `record`."""
    parser = commands.add_parser("record", help=COMMANDS["record"][1])
    parser.add_argument("name", metavar="NAME", help="which recording; `list` shows all of them, with their times")
    parser.add_argument("--assets", metavar="DIR", help="write there instead of into the course's assets/")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, mps or auto")
    parser.add_argument("--quick", action="store_true", help="a trial of a few seconds; needs --assets")
    parser.set_defaults(run=run_record, needs=("nl_course.training.distributed",))


def run_record(options: argparse.Namespace) -> int:
    """Makes a recording and prints what was written, or lists the recordings; returns the exit code."""
    from nl_course.record import RECIPES, record

    if options.name == "list":
        width = max(map(len, RECIPES))
        print("\n".join(f"{name:{width}}  {about}" for name, about in RECIPES.items()))
        return DONE
    check_choice("recording", options.name, RECIPES)
    if options.quick and options.assets is None:
        raise CourseError("--quick makes a trial, which must not replace a recording; add --assets DIR.")
    for path in record(options.name, options.assets, device_named(options.device).type, options.quick):
        print(f"wrote {path}")
    return DONE


def add_train(commands: argparse._SubParsersAction) -> None:
    """Adds `train`."""
    from nl_course.app import train_command

    train_command.add_command(commands, COMMANDS["train"][1])


def add_export(commands: argparse._SubParsersAction) -> None:
    """Adds `export`."""
    from nl_course.export import command

    command.add_command(commands)


def add_runs(commands: argparse._SubParsersAction) -> None:
    """Adds `runs`."""
    from nl_course.training import run_table

    run_table.add_command(commands)


def add_check_memory(commands: argparse._SubParsersAction) -> None:
    """Adds `check-memory`."""
    from nl_course.suite import check

    check.add_command(commands)


def add_student(commands: argparse._SubParsersAction) -> None:
    """Adds `student`."""
    from nl_course.app import student

    student.add_command(commands)


def add_wheelhouse(commands: argparse._SubParsersAction) -> None:
    """Adds `wheelhouse`."""
    from nl_course.app import wheelhouse

    wheelhouse.add_command(commands)


def add_teacher(commands: argparse._SubParsersAction) -> None:
    """Adds `teacher`."""
    from nl_course.export.teacher import command

    command.add_command(commands)


def add_progress(commands: argparse._SubParsersAction) -> None:
    """Adds `progress`."""
    from nl_course.app import progress_page

    progress_page.add_command(commands)


def add_grade(commands: argparse._SubParsersAction) -> None:
    """Adds `grade`."""
    from nl_course.app.grading import command

    command.add_command(commands, COMMANDS["grade"][1])


# Name -> (the function that adds it, what `nl-course --help` says about it).
COMMANDS: dict[str, tuple[Callable[[argparse._SubParsersAction], None], str]] = {
    "lab": (add_lab, "open your copy of the course in JupyterLab"),
    "doctor": (add_doctor, "is this machine ready, and what will be slow on it?"),
    "train": (add_train, "train a language model on text"),
    "record": (add_record, "make one of the course's recordings again, into assets/"),
    "export": (add_export, "the whole course as static pages and slides"),
    "runs": (add_runs, "compare the runs in a folder: loss, speed, memory"),
    "check-memory": (add_check_memory, "does your own memory keep what every memory must keep?"),
    "progress": (add_progress, "which exercises of your copy are solved, and which are open?"),
    "wheelhouse": (add_wheelhouse, "collect all that the course needs, to install it without a network"),
    "teacher": (add_teacher, "the teacher's book: answers, minutes, rubrics, routes"),
    "grade": (add_grade, "check what a class handed in: points, CSV, feedback"),
    "student": (add_student, "copy the course for a class, without its solutions"),
}


# -- the program ------------------------------------------------------------------------------------------------
def build_parser(command: str | None) -> Parser:
    """The parser with all options of one command. The other commands are only named in it, because adding their
    options would import what they need."""
    parser = Parser(prog="nl-course", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"nl-course {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, (add, about) in COMMANDS.items():
        if name == command:
            add(commands)
        else:
            commands.add_parser(name, help=about)
    return parser


def main(arguments: list[str] | None = None, begin: Callable[[], None] = lambda: None) -> int:
    """Runs a command and returns its exit code. `begin` is called when all options are read and all modules are loaded,
    just before the work begins.

    Raises nothing but SystemExit after `--help` and `--version`, and with NL_COURSE_STRICT=1 what is a fault of the
    course.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    spell_out_the_rest()
    with warnings.catch_warnings():
        # A warning is printed as one line, without the file and line of code it came from.
        warnings.showwarning = lambda message, *rest, **more: note(str(message))
        try:
            code = _run(arguments, begin)
            if sys.stdout is not None:
                sys.stdout.flush()  # here a full disk is named; when Python ends, it would be a traceback
            return code
        except KeyboardInterrupt:
            return INTERRUPTED
        except Exception as error:
            return complain_about(error)
        finally:
            drop_output()


def _run(arguments: list[str], begin: Callable[[], None]) -> int:
    command = next(iter(arguments), None)
    if command is not None and not command.startswith("-"):
        check_choice("command", command, COMMANDS)
    parser = build_parser(command)
    try:
        options = parser.parse_args(arguments)
    except CourseError:
        # Under torchrun all processes have the same options: one on each machine tells what is wrong with them.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        time.sleep(1.0)  # torchrun ends them all once one has ended
        return REFUSED
    if options.command is None:
        parser.print_help()
        return DONE
    for module in getattr(options, "needs", ()):
        import_module(module)
    if not getattr(options, "ctrl_c_ends", False):
        begin()
    return options.run(options) or DONE


def complain_about(error: Exception) -> int:
    """Prints what went wrong as one line; returns the exit code. Raises a fault of the course itself again where
    NL_COURSE_STRICT is set."""
    if isinstance(error, CourseError):
        return complain(str(error))
    if isinstance(error, BrokenPipeError):
        return complain("the output was closed before all of it was written.")
    if is_out_of_memory(error):
        return complain("this needs more memory than there is; take a smaller batch size, length or preset.")
    if isinstance(error, OSError):
        return complain(f"{error.filename or 'a file cannot be read or written'}: {reason(error)}.")
    if os.environ.get("NL_COURSE_STRICT") == "1":
        raise error
    complain(
        f"a fault of the course: {type(error).__name__}: {reason(error)} ({_place(error)}). "
        "NL_COURSE_STRICT=1 shows more; please report it."
    )
    return FAULT


def _place(error: Exception) -> str:
    """The line of the course's own code that was running, e.g. "training/loop.py, line 80"."""
    import traceback  # only here, since it takes as long to load as the rest of this module

    package = Path(__file__).resolve().parent.parent
    place = "the command line"
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename).is_relative_to(package):
            place = f"{Path(frame.filename).relative_to(package).as_posix()}, line {frame.lineno}"
    return place


def complain(message: str) -> int:
    """Prints a mistake as one line on stderr; returns the exit code of what was refused."""
    note(message, "")
    return REFUSED


def note(message: str, kind: str = "note: ") -> None:
    """Prints a message as one line on stderr."""
    try:
        print(f"nl-course: {kind}{' '.join(message.split())}", file=sys.stderr)
    except (OSError, ValueError):  # stderr is closed or full: there is nowhere left to say it
        return


def drop_output() -> None:
    """Drops what cannot be written, into a full disk or a pipe that nobody reads (`nl-course runs | head -1`). Python
    would try once more when it ends, and complain in its own way."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):  # an output that is no file has nothing to drop
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def spell_out_the_rest() -> None:
    """A character that the terminal cannot show is written as its number, such as \\xe9, instead of ending the
    program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def program() -> None:
    """`main` as a program of its own, which torchrun may have started in several processes.

    While Python and torch are loaded there is nothing to save, and a half-loaded torch cannot be trusted to clean up.
    So ctrl-C first ends the process itself, as it ends any other program. Once a command has begun its work, it raises
    KeyboardInterrupt: a run is saved, a half-written file is removed, and the exit code is INTERRUPTED.
    """
    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # under nohup, and it stays so

    def on_ctrl_c(handler: Any) -> None:
        """Sets what Ctrl-C does, unless the process was told to ignore it."""
        if not is_ignored:
            signal.signal(signal.SIGINT, handler)

    on_ctrl_c(signal.SIG_DFL)
    code = main(begin=lambda: on_ctrl_c(signal.default_int_handler))
    on_ctrl_c(signal.SIG_DFL)  # while Python ends, there is nothing to save either
    # Who has not loaded this module has no other processes and no threads of its own to be careful with.
    distributed = sys.modules.get("nl_course.training.distributed")
    if distributed is not None:
        distributed.end(code)
    sys.exit(code)


if __name__ == "__main__":
    program()
