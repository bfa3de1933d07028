"""The first lines of the program `nl-course`. They import next to nothing, so that ctrl-C is in good hands at once."""

import signal


def program() -> None:
    """The command line as a program of its own. Until a command begins its work, ctrl-C ends the process at once, as
    it ends any other program: see `nl_course.app.cli.program`, which goes on from here."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # under nohup it is ignored, and stays so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from nl_course.app import cli

    cli.program()
