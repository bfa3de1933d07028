"""`nl-course teacher`: its options and what it prints."""

import argparse

from nl_course.errors import DONE


def add_command(commands: argparse._SubParsersAction) -> None:
    """Adds `teacher DIR` to the command line."""
    parser = commands.add_parser(
        "teacher",
        help="the teacher's book: answers, minutes, rubrics, routes",
        description=(
            "Writes the teacher's book as pages to read in a browser: for each notebook the sentence to earn, minutes\n"
            "per section, what to show and to ask, exercises with aims and what wrong answers reveal, answers to the\n"
            "discussion questions, and a rubric; and routes of 90 minutes, one day and six weeks. It holds every\n"
            "answer: do not publish it with the site, and do not hand it out."
        ),
    )
    parser.add_argument("folder", metavar="DIR", help="where it goes: a new or empty folder, or an earlier book")
    parser.add_argument(
        "--site",
        metavar="ADDRESS",
        help="where the pages of `nl-course export` are, e.g. ../site or https://...: the book then links to them",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Writes the book; returns the exit code."""
    from nl_course.export.teacher import write_book

    pages = write_book(options.folder, options.site)
    print(f"{len(pages)} pages for the teacher, with all answers; open {pages[0]}")
    return DONE
