"""Runs and tends the DVC workflow; in the repository's root. `make help` lists the usual ways to call it."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import Any

from dlskip.commands import count


def add(parser: ArgumentParser) -> None:
    """Declares the sub-commands and their options."""
    chosen = parser.add_subparsers(dest="what", required=True, metavar="what")

    run = chosen.add_parser("run", help="run what is out of date, several stages at a time", description=RUN)
    _add_run(run, "stages, run with what they need; without any, all of dvc.yaml")
    run.add_argument("--no-plan", action="store_true", help="do not estimate first how long it takes")

    plan = chosen.add_parser("plan", help="what a run would take: time, memory and disk by stage", description=PLAN)
    _add_run(plan, "stages, planned with what they need; without any, all of dvc.yaml")

    recipe = chosen.add_parser("recipe", help="apply a recipe onto params.yaml", description=RECIPE)
    recipe.add_argument("name", help="a file in recipes/, or embedded: the default")
    recipe.add_argument("changes", nargs="*", type=_change, metavar="key=value", help="e.g. prepare.path=/data/nlp")
    recipe.add_argument("--force", action="store_true", help="drop what was changed by hand since the last recipe")

    chosen.add_parser("check", help="check params.yaml")

    report = chosen.add_parser("report", help="redraw a report from its committed results, without training")
    report.add_argument("name", nargs="?", help="of reports/reference; without it, that of params.yaml")

    chosen.add_parser("keep", help="keep the results of params.yaml as reports/reference/<recipe>")

    show = chosen.add_parser("show", help="print the headline table, and where the report is")
    show.add_argument("--readme", action="store_true", help="also put the table into README.md")


def _add_run(parser: ArgumentParser, targets: str) -> None:
    parser.add_argument("targets", nargs="*", help=targets)
    parser.add_argument("-j", "--jobs", type=count, help="stages at a time; 1 is `dvc repro` (see above)")
    parser.add_argument("--alone", default="speed", metavar="NAME,...", help="how their names begin (%(default)s)")
    parser.add_argument("--together", action="store_true", help="no stage runs alone; measured times are worthless")


def run(options: Namespace) -> None:
    """Runs it."""
    globals()[f"_{options.what}"](options)


def _run(options: Namespace) -> None:
    from dlskip.config import PARAMS
    from dlskip.workflow.check import check
    from dlskip.workflow.jobs import run_stages

    if PARAMS.is_file():  # before DVC reads it, whose messages are harder to understand
        check()
    planned = PARAMS.is_file() and not options.no_plan
    run_stages(options.targets, options.jobs, _alone(options), planned=planned)


def _plan(options: Namespace) -> None:
    from dlskip.workflow.check import check
    from dlskip.workflow.graph import read_graph, up_to_date
    from dlskip.workflow.plan import make_plan

    check()
    graph = read_graph(options.targets)
    print(make_plan(graph, up_to_date(graph), options.jobs, _alone(options)).table())


def _alone(options: Namespace) -> tuple[str, ...]:
    return () if options.together else tuple(filter(None, options.alone.split(",")))


def _recipe(options: Namespace) -> None:
    from dlskip.workflow.recipe import apply

    apply(options.name, dict(options.changes), force=options.force)
    print(f"params.yaml now holds the recipe {options.name!r}. Next: make repro")


def _check(_: Namespace) -> None:
    from dlskip.workflow.check import check

    check()


def _report(options: Namespace) -> None:
    from dlskip.workflow.redraw import redraw
    from dlskip.workflow.show import show

    show(redraw(options.name))


def _keep(_: Namespace) -> None:
    from dlskip.workflow.redraw import keep

    print(f"kept in {keep()}")


def _show(options: Namespace) -> None:
    from dlskip.workflow.show import show

    show(readme=options.readme)


def _change(text: str) -> tuple[str, Any]:
    from ruamel.yaml.error import YAMLError

    from dlskip.workflow.recipe import pair

    try:
        return pair(text)
    except (ValueError, YAMLError) as error:
        raise ArgumentTypeError("changes are written key=value, the value in YAML") from error


RUN = """On a CPU two stages run at a time, on a GPU up to four, as far as cores and memory allow. Those of --alone
measure time: they start last, one by one, with all cores. Every other stage has its share of the cores, or all of them
where nothing but evaluations could run beside it. Another number of threads adds numbers in another order, so weights
may differ from those of --jobs 1 in their last bits. After a failure nothing more starts, and what runs is let finish.
After Ctrl-C the same command, or plain `dvc repro`, goes on from the checkpoints. What a stage says is written to
.jobs/<stage>.log."""
PLAN = """Tries out a few steps of all that is out of date, in a scratch folder, and says what a run takes on this
machine: by stage the minutes of its runs added up, memory at its peak, and disk; then all of it on the clock, as many
stages at a time as --jobs says. What trained controllers will skip is not known: they are reckoned as if they skipped
nothing. It takes a minute, once: what was measured is kept in .jobs/ for the same parameters."""
RECIPE = """Writes the default parameters with a recipe's changes into params.yaml. The default that was there, with
your changes, is put aside in params.default.yaml and comes back with `embedded`. What was changed by hand under another
recipe is not overwritten without --force."""
