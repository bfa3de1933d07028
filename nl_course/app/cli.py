"""`nl-course`: open the course, look at the machine, train a model, make the recordings again.

A mistake in the options is answered in one line on stderr, with exit code 2, before any file is touched.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from nl_course import __version__
from nl_course.app.options import INTERRUPTED, device_named, number
from nl_course.errors import CourseError, check_choice

# Each command imports what it needs inside its own functions: `nl-course lab` must not wait for torch.


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that complains like the rest of the course: in one line, with a guess at what was meant."""

    def __init__(self, *arguments: Any, **options: Any):
        # Abbreviations are off: `--presett` should be corrected, not read as something else.
        super().__init__(
            *arguments, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str) -> NoReturn:
        """Raises CourseError instead of printing the usage and leaving."""
        raise CourseError(f"{message.removeprefix('argument ')} (see `{self.prog} --help`)")

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
        return options, unknown


# -- the commands -----------------------------------------------------------------------------------------------
def add_lab(commands: argparse._SubParsersAction) -> None:
    """Adds `lab`."""
    parser = commands.add_parser("lab", help=COMMANDS["lab"][1])
    parser.add_argument(
        "--copy", metavar="DIR", help="work on a copy in DIR; what you changed there is never overwritten"
    )
    parser.add_argument(
        "--reset", metavar="NOTEBOOK", help="put one notebook of the copy back, keeping yours beside it"
    )
    parser.add_argument("--student", action="store_true", help="leave the solution cells out of the copy")
    parser.add_argument("--no-browser", action="store_true", help="print the address instead of opening a browser")
    parser.add_argument("--no-start", action="store_true", help="make or update the copy and stop there")
    parser.add_argument("--port", type=number(int), help="the port to use (default: the next free one from 8888)")
    parser.set_defaults(run=run_lab)


def run_lab(options: argparse.Namespace) -> int:
    """Makes or updates the copy, if one is asked for, and opens JupyterLab; returns the exit code."""
    from nl_course.app import lab

    if options.port is not None and not 0 < options.port < 65536:
        raise CourseError(f"--port must be a number from 1 to 65535, not {options.port}.")
    for name in ("reset", "student", "no_start"):
        if getattr(options, name) and options.copy is None:
            raise CourseError(f"--{name.replace('_', '-')} is about a copy; add --copy DIR.")
    folder = None
    if options.copy is not None:
        result = lab.copy_course(options.copy, options.reset, options.student)
        folder = result.folder
        print(result, flush=True)
    if options.no_start:
        return 0
    return lab.launch(folder, not options.no_browser, options.port)


def add_doctor(commands: argparse._SubParsersAction) -> None:
    """Adds `doctor`."""
    parser = commands.add_parser("doctor", help=COMMANDS["doctor"][1])
    parser.set_defaults(run=run_doctor)


def run_doctor(options: argparse.Namespace) -> int:
    """Prints the diagnosis; returns 1 if something must be fixed."""
    from nl_course.app.doctor import doctor

    print("Looking at this machine; the first time takes about ten seconds.", flush=True)
    diagnosis = doctor()
    print(diagnosis)
    return 0 if diagnosis.ok else 1


def add_record(commands: argparse._SubParsersAction) -> None:
    """Adds `record`."""
    parser = commands.add_parser("record", help=COMMANDS["record"][1])
    parser.add_argument("name", metavar="NAME", help="which recording; `list` shows all of them, with their times")
    parser.add_argument("--assets", metavar="DIR", help="write there instead of into the course's assets/")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, mps or auto")
    parser.add_argument("--quick", action="store_true", help="a trial of a few seconds; needs --assets")
    parser.set_defaults(run=run_record)


def run_record(options: argparse.Namespace) -> int:
    """Makes a recording and prints what was written, or lists the recordings; returns the exit code."""
    from nl_course.record import RECIPES, record

    if options.name == "list":
        width = max(map(len, RECIPES))
        print("\n".join(f"{name:{width}}  {about}" for name, about in RECIPES.items()))
        return 0
    check_choice("recording", options.name, RECIPES)
    if options.quick and options.assets is None:
        raise CourseError("--quick makes a trial, which must not replace a recording; add --assets DIR.")
    for path in record(options.name, options.assets, device_named(options.device).type, options.quick):
        print(f"wrote {path}")
    return 0


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


# Name -> (the function that adds it, what `nl-course --help` says about it).
COMMANDS: dict[str, tuple[Callable[[argparse._SubParsersAction], None], str]] = {
    "lab": (add_lab, "open the course in JupyterLab"),
    "doctor": (add_doctor, "is this machine ready, and what will be slow on it?"),
    "train": (add_train, "train a language model on text"),
    "record": (add_record, "make one of the course's recordings again, into assets/"),
    "export": (add_export, "the whole course as static pages and slides"),
    "runs": (add_runs, "compare the runs in a folder: loss, speed, memory"),
    "check-memory": (add_check_memory, "does your own memory keep what every memory must keep?"),
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


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 1 (doctor found something to fix), 2 (bad input), 130 (ctrl-C)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with warnings.catch_warnings():
        # A warning is printed as one line, without the file and line of code it came from.
        warnings.showwarning = lambda message, *rest, **more: print(f"nl-course: note: {message}", file=sys.stderr)
        try:
            return _run(arguments)
        except CourseError as error:
            return complain(str(error))
        except OSError as error:
            return complain(f"{error.filename or 'a file'}: {error.strerror or error}")
        except (MemoryError, RuntimeError) as error:
            # PyTorch reports a lack of memory as a RuntimeError. Any other one is a bug and keeps its traceback.
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            return complain("this needs more memory than there is; take a smaller batch size, length or preset.")
        except KeyboardInterrupt:
            return INTERRUPTED


def _run(arguments: list[str]) -> int:
    command = next(iter(arguments), None)
    if command is not None and not command.startswith("-"):
        check_choice("command", command, COMMANDS)
    parser = build_parser(command)
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    return options.run(options) or 0


def complain(message: str) -> int:
    """Prints a mistake as one line on stderr; returns the exit code of bad input."""
    print(f"nl-course: {' '.join(message.split())}", file=sys.stderr)
    return 2


def program() -> None:
    """`main` as a program of its own, which torchrun may have started in several processes."""
    code = main()
    # Without torch there are no other processes and no threads of its own to be careful with.
    if "torch.distributed" in sys.modules:
        from nl_course.training.distributed import end

        end(code)
    sys.exit(code)


if __name__ == "__main__":
    program()
