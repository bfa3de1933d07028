"""`nl-course grade`: its options and what it prints."""

import argparse
import sys

from nl_course.errors import DONE, FOUND, check_min, check_positive

DESCRIPTION = """Checks what a class handed in. FOLDER holds a notebook, or a folder of notebooks, for each learner.

Of a notebook only the answers are run, each with what it needs of the cells before it, by the checks of this
installation: nothing that a notebook redefines counts, and an answer that calls the course's own package is not
accepted. Each submission runs in a process of its own, with a limit for time and memory. That is no wall against
somebody who attacks the machine: grade the work of strangers in a container.

A solved exercise is one point. The exercises are those of every notebook that a submission was made from."""


def add_command(commands: argparse._SubParsersAction, about: str) -> None:
    """Adds `grade FOLDER` to the command line."""
    parser = commands.add_parser("grade", help=about, description=DESCRIPTION)
    parser.add_argument("folder", metavar="FOLDER", help="the submissions: a notebook or a folder for each learner")
    parser.add_argument("--csv", metavar="FILE", help="write a row per learner there, for a grade book")
    parser.add_argument("--feedback", metavar="DIR", help="write an HTML page per learner there")
    parser.add_argument(
        "--exercises", nargs="+", metavar="ID", help="which ones, such as 1.1 (default: all of the notebooks handed in)"
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="that the check of one answer may take (default: %(default)g)"
    )
    parser.add_argument(
        "--memory", type=float, default=4.0, metavar="GIB", help="that one answer may take (default: %(default)g)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Grades and prints the table; returns 1 if a submission could not be read."""
    check_positive("--seconds", options.seconds)
    check_min("--memory", options.memory, 0.1)
    # Here, since they bring torch along, for which the command line does not wait.
    from nl_course.app.grading import report
    from nl_course.app.grading.outcome import Allowance
    from nl_course.app.grading.processes import grade
    from nl_course.app.grading.submissions import exercises_asked, find_submissions, in_course_order
    from nl_course.exercises.framework.engine import exercise

    submissions = find_submissions(options.folder)
    learners = [submission.learner for submission in submissions]
    csv_path = None if options.csv is None else report.check_csv(options.csv)
    pages = None if options.feedback is None else report.check_pages(options.feedback, learners)
    if options.exercises is None:
        ids = exercises_asked(submissions)
    else:
        ids = sorted({exercise(name).id for name in options.exercises}, key=in_course_order)
    allowance = Allowance(options.seconds, int(options.memory * 2**30))
    grades = {}
    for number, submission in enumerate(submissions, 1):
        print(f"{number} of {len(submissions)}: {submission.learner}", file=sys.stderr, flush=True)
        grades[submission.learner] = grade(submission, ids, allowance)
    print(report.table(grades))
    if csv_path is not None:
        report.write(csv_path, report.csv_text(grades))
        print(f"\nwrote {csv_path}")
    if pages is not None:
        titles = {exercise_id: exercise(exercise_id).title for exercise_id in ids}
        for learner, outcomes in grades.items():
            report.write(pages / f"{learner}.html", report.page(learner, outcomes, titles))
        print(f"wrote {len(grades)} pages to {pages}")
    unreadable = any(outcome.verdict == "unreadable" for outcomes in grades.values() for outcome in outcomes)
    return FOUND if unreadable else DONE
