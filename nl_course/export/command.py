"""`nl-course export`: its options and what it prints."""

import argparse
import sys

from nl_course.errors import DONE, FOUND


def add_command(commands: argparse._SubParsersAction) -> None:
    """Adds `export DIR` to the command line."""
    parser = commands.add_parser("export", help="the whole course as static pages and slides")
    parser.add_argument("folder", metavar="DIR", help="where the pages go: a new or empty folder, or an earlier export")
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="which ones, such as 03 (default: all)")
    parser.add_argument(
        "--no-run", action="store_true", help="do not run the notebooks: quick, with pictures in place of plots"
    )
    parser.add_argument("--jobs", type=int, default=2, help="notebooks that run at once (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Writes the pages; returns 1 if a cell failed in one of the notebooks."""
    from nl_course.export import export

    site = export(options.folder, options.notebooks or None, run=not options.no_run, jobs=options.jobs)
    print(f"{len(site.pages)} pages and {len(site.slides)} sets of slides; open {site.folder / 'index.html'}")
    for name, error in site.failed.items():
        print(f"nl-course: {name}: a cell failed: {error}", file=sys.stderr)
    return FOUND if site.failed else DONE
