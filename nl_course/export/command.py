"""`nl-course export`: its options and what it says."""

import argparse
import sys


def add_command(commands) -> None:
    parser = commands.add_parser("export", help="the whole course as static pages and slides")
    parser.add_argument("folder", metavar="DIR", help="where the pages go")
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="which ones, as 03 (default: all)")
    parser.add_argument("--no-run", action="store_true", help="as the notebooks stand: quick, but without their plots")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks that run at once (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from nl_course.export import export

    done = export(options.folder, options.notebooks or None, run=not options.no_run, jobs=options.jobs)
    print(f"{len(done.pages)} pages and {len(done.slides)} sets of slides; open {done.folder / 'index.html'}")
    for name, wrong in done.failed.items():
        print(f"nl-course: {name}: a cell failed: {wrong}", file=sys.stderr)
    return 1 if done.failed else 0
