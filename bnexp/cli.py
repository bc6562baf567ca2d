"""The command line: options, exit codes, and nothing else. Every import that costs time stands inside its command.

Exit codes: 0 ok · 1 some shards failed, or a bug · 2 wrong usage, spec or data, nothing found, no such
device · 4 results damaged or newer · 5 storage · 6 folder in use · 8 device lost · 130 Ctrl-C · 143 SIGTERM.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bnexp import __version__, errors
from bnexp.completion import (
    complete_config,
    complete_export,
    complete_format,
    complete_override,
    complete_results,
    complete_template,
    complete_word,
)
from bnexp.interruption import calm

if TYPE_CHECKING:
    from bnexp.comparison import ClaimRow, Comparison
    from bnexp.experiment import Summary
    from bnexp.on_ray import Cluster
    from bnexp.spec import Spec

app = typer.Typer(
    name="bnexp",
    help="What does batch norm really do? Train small networks with and without it, and measure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EXIT_CODES: dict[type[errors.BnexpError], int] = {
    errors.UsageError: 2,
    errors.DamagedResults: 4,
    errors.StorageError: 5,
    errors.FolderInUse: 6,
    errors.DeviceLost: 8,
    errors.TrainingFailed: 1,
}


def exits(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command its exit codes: an expected error is one message, not a traceback."""

    kept = "; what is committed is kept, the same command goes on from there" if command.__name__ == "train" else ""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
            if sys.stdout is not None:
                sys.stdout.flush()
        except errors.BnexpError as error:
            _say(str(error))
            raise typer.Exit(next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))) from None
        except BrokenPipeError:
            # The reader of our output has left (| head): nothing more to say.
            _leave_stdout()
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            calm()
            _say(f"interrupted{kept}")
            raise typer.Exit(130) from None
        except errors.Terminated:
            calm()
            _say(f"terminated{kept}")
            raise typer.Exit(143) from None
        except OSError as error:
            if error.filename is not None:  # not of a stream
                raise
            _leave_stdout()
            _say(f"cannot write the output: {error.strerror or error}")
            raise typer.Exit(EXIT_CODES[errors.StorageError]) from None

    return wrapped


def _say(message: str) -> None:
    from bnexp.console import print_error

    with suppress(OSError):  # of a stderr that is full or closed
        print_error(message)


def _leave_stdout() -> None:
    """No complaint at shutdown about what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"bnexp {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """What does batch norm really do? Train small networks with and without it, and measure."""


@app.command()
@exits
def train(
    config: Annotated[
        Path, typer.Argument(help="The spec, a YAML file.", autocompletion=complete_config, show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[key=value]…",
            help="Replace fields: train.lr=0.03,0.1 seeds=0..19",
            autocompletion=complete_override,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Results folder [default: results/NAME].", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    workers: Annotated[str, typer.Option(help="Worker processes (on a GPU threads): a number, or auto.")] = "auto",
    executor: Annotated[str, typer.Option(help="Where to train: local, or ray, a cluster.")] = "local",
    address: Annotated[str, typer.Option(help="Of the Ray cluster: auto, local (start one here) or ray://….")] = "auto",
    gpus_per_task: Annotated[float, typer.Option(help="Of a Ray task: a part of a GPU, such as 0.25.", min=0)] = 0,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add the runs that are new; keep the finished ones.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete what the folder holds first.")] = False,
    restart_unfinished: Annotated[
        bool,
        typer.Option("--restart-unfinished", help="Begin unfinished shards anew: others began them."),
    ] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first shard that fails.")] = False,
    max_runs: Annotated[int, typer.Option(help="Refuse a study of more runs than this.", min=1)] = 100_000,
    part: Annotated[
        str, typer.Option(metavar="K/N", help="Train the K-th of N parts; bnexp merge joins them.", show_default=False)
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no table.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of a failed shard.")] = False,
) -> None:
    """Train every run of a spec, write the CSVs, and compare the norms.

    The same command resumes; a finished study trains nothing.
    """
    from bnexp.workers import available_cores, warm_up

    cluster = _cluster(executor, address, gpus_per_task, device)
    if overwrite and (extend or restart_unfinished):
        raise errors.UsageError("--overwrite deletes the folder and the other option keeps it: use one of them")
    if not (dry_run or cluster) and workers != "1" and device in ("auto", "cpu") and available_cores() > 1:
        warm_up()
    from bnexp.progress import Progress

    spec = _spec(config, overrides or ())
    from bnexp.experiment import Request, command_line, run_experiment

    number = _workers(workers)
    request = Request(
        out,
        device,
        number,
        extend=extend,
        overwrite=overwrite,
        restart_unfinished=restart_unfinished,
        fail_fast=fail_fast,
        max_runs=max_runs,
        cluster=cluster,
        part=_part(part),
        command=command_line(),
    )
    observer = Progress(silent=quiet or dry_run, mute=quiet)
    if not (dry_run or quiet):  # the libraries of the comparison load while workers train
        threading.Thread(target=importlib.import_module, args=("bnexp.comparison",), daemon=True).start()
    summary = run_experiment(spec, request, observer, dry_run=dry_run)
    if dry_run:
        _print_plan(summary, ["train", str(config), *(overrides or ())], out, as_json)
        return
    _report_training(summary, as_json, quiet, verbose)


def _spec(config: Path, overrides: Sequence[str]) -> Spec:
    """The spec, or everything that is wrong with it and with the data files that it names."""
    from bnexp.loading import load_spec

    try:
        return load_spec(config, overrides)
    except errors.SpecError as error:
        from bnexp.inputs import with_other_mistakes

        raise with_other_mistakes(error) from None


def _report_training(summary: Summary, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Say what was trained, compare, and fail if a shard did."""
    from bnexp import console

    comparisons: tuple[Comparison, ...] = ()
    claims: tuple[ClaimRow, ...] = ()
    if not quiet or as_json:
        from bnexp.comparison import compare_runs, list_claims
        from bnexp.results import load_results

        results = load_results([summary.outline.folder])[0]
        comparisons, claims = compare_runs(results), list_claims(results)
    if as_json:
        from bnexp.formats import document

        console.print_json({"training": console.summary_record(summary), **document(comparisons, claims)})
    elif not quiet:
        console.print_comparisons(comparisons, claims=claims)
    console.print_summary(summary, quiet)
    if summary.failures:
        shown = {text if verbose else text.strip().splitlines()[-1] for text in summary.failures.values()}
        kind = errors.DeviceLost if summary.lost else errors.TrainingFailed
        raise kind(
            f"{len(summary.failures)} shards failed ({'; '.join(sorted(shown))}); the same command tries them again"
            + ("" if verbose else ", -v shows the traceback")
        )


@app.command("ls")
@exits
def list_(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Results folders, to list their runs.", autocompletion=complete_results, show_default=False
        ),
    ] = None,
    where: Annotated[str, typer.Option(help="Only these runs: norm=full,lr=0.1,seed=3 (k=v1|v2 for several).")] = "",
    status: Annotated[str, typer.Option(help="Only these: pending,running,done,diverged,failed.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """List the experiments under results/, or the runs of those that are named."""
    from bnexp import console, console_listing, listing
    from bnexp.results import load_results

    if not results:
        if where or status:
            raise errors.UsageError("--where and --status pick runs: name a results folder")
        found = listing.list_experiments()
        if as_json:
            console.print_json({"experiments": [one.record() for one in found]})
        else:
            console_listing.print_experiments(found)
        return
    chosen, statuses = _filters(where, status)
    picked = [(one, listing.select_runs(one, chosen, statuses)) for one in load_results(results)]
    if as_json:
        console.print_json({"runs": [row for _, runs in picked for row in listing.records(runs)]})
        return
    for one, runs in picked:
        console_listing.print_runs(one, runs)


@app.command()
@exits
def show(
    results: Annotated[
        Path, typer.Argument(help="A results folder.", autocompletion=complete_results, show_default=False)
    ],
    run: Annotated[
        str, typer.Argument(help="A run: its id, or words that only it has: norm=full seed=3.", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Show an experiment: settings, how its runs ended, where its numbers come from. Or one of its runs."""
    from bnexp import console, console_listing, listing
    from bnexp.results import load_results

    (found,) = load_results([results])
    if run:
        record = listing.find_run(found, run)
        if as_json:
            console.print_json({"run": listing.plain(record)})
        else:
            console_listing.print_run(found, record)
    elif as_json:
        (listed,) = listing.list_experiments([results])
        console.print_json({**listed.record(), "spec": dict(found.spec.document), "meta": found.meta})
    else:
        console_listing.print_experiment(found)


@app.command("rm")
@exits
def remove(
    results: Annotated[
        list[Path], typer.Argument(help="Results folders.", autocompletion=complete_results, show_default=False)
    ],
    where: Annotated[str, typer.Option(help="Only these runs: norm=full,lr=0.1,seed=3 (k=v1|v2 for several).")] = "",
    status: Annotated[str, typer.Option(help="Only these: pending,running,done,diverged,failed.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove experiments, or runs of them, which the train command then trains anew.

    Runs go shard by shard, the least that is trained; how many go along is said before.
    """
    from bnexp import console_listing, listing

    chosen, statuses = _filters(where, status)
    plans = [listing.plan_removal(folder, chosen, statuses) for folder in results]
    console_listing.print_removal(plans)
    if not yes:
        if not sys.stdin.isatty():
            raise errors.UsageError("nobody to ask: say --yes to remove it")
        if not typer.confirm("Remove it?"):
            raise typer.Exit(0)
    for plan in plans:
        console_listing.print_removed(plan, plan.carry_out())


def _filters(where: str, status: str) -> tuple[dict[str, list[str]], list[str]]:
    """What --where and --status say."""
    chosen = {key: value.split("|") for key, value in _pairs("--where", where).items()}
    return chosen, [one.strip() for one in status.split(",") if one.strip()]


@app.command()
@exits
def init(
    template: Annotated[
        str,
        typer.Argument(
            help="quickstart, lesson, claim or sweep; walkthrough is a notebook.", autocompletion=complete_template
        ),
    ] = "quickstart",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file [default: config.yaml; walkthrough.ipynb].", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented spec to begin with, and beside it the schema by which an editor completes it.

    Or write the walk-through, a notebook that trains, compares and looks inside, in Python.
    """
    from bnexp import console
    from bnexp.starting import NOTEBOOK, write_starter

    written = write_starter(template, output, force)
    console.print_written(written)
    console.print_next(*(("jupyter", "lab") if template == NOTEBOOK else ("bnexp", "check")), written[0])


@app.command()
@exits
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Look at this machine: versions, devices, extras, how fast it writes here, how long one small run takes.

    The exit code is 1 if something is wrong.
    """
    from bnexp import console, console_listing
    from bnexp.health import examine
    from bnexp.progress import Progress

    findings = examine(Progress(silent=True, mute=True))
    if as_json:
        console.print_json({"findings": [finding._asdict() for finding in findings]})
    elif not console_listing.print_findings(findings):
        raise typer.Exit(1)


@app.command()
@exits
def schema() -> None:
    """Print the JSON Schema (draft-07) of a spec."""
    from bnexp.starting import schema_text

    typer.echo(schema_text(), nl=False)


@app.command()
@exits
def explain(
    word: Annotated[
        str,
        typer.Argument(
            help="gamma, beta, ics, placement, shift, …; without one, all words.",
            autocompletion=complete_word,
            show_default=False,
        ),
    ] = "",
) -> None:
    """Say what a word of the report means."""
    from bnexp import console
    from bnexp.glossary import GLOSSARY, look_up

    for one in [look_up(word)] if word else GLOSSARY:
        console.print_word(one)


@app.command()
@exits
def check(
    config: Annotated[
        Path, typer.Argument(help="The spec, a YAML file.", autocompletion=complete_config, show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[key=value]…",
            help="Replace fields, as in train.",
            autocompletion=complete_override,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Results folder [default: results/NAME].", show_default=False)
    ] = None,
    max_runs: Annotated[int, typer.Option(help="Refuse a study of more runs than this.", min=1)] = 100_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Say what would run and what each claim compares; nothing is trained, and nothing written to results.

    All mistakes of the spec, its overrides, its data files and its claims are shown with their places (exit code 2).
    """
    spec = _spec(config, overrides or ())
    from bnexp.experiment import Request, run_experiment
    from bnexp.progress import Progress

    summary = run_experiment(spec, Request(out, max_runs=max_runs), Progress(silent=True), dry_run=True)
    _print_plan(summary, ["train", str(config), *(overrides or ())], out, as_json)


def _print_plan(summary: Summary, arguments: list[str], out: Path | None, as_json: bool) -> None:
    """What would run, what each claim asks of it, and the command that does it."""
    from bnexp import console
    from bnexp.claims import resolve_claims

    console.print_plan(summary, resolve_claims(summary.outline.spec), as_json)
    if not as_json and summary.outline.stacks:
        console.print_next("bnexp", *arguments, *(("--out", out) if out else ()))
    elif not as_json:
        console.print_next("bnexp", "report", summary.outline.folder)


@app.command()
@exits
def compare(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Results folders [default: all in results/].", autocompletion=complete_results, show_default=False
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="A column of runs.csv, or of a table: ics.relative:layer=2,over=mean.", show_default=False),
    ] = None,
    baseline: Annotated[str, typer.Option(help="What each row is compared with: norm=none, or a norm.")] = "norm=none",
    where: Annotated[str, typer.Option(help="Only these: norm=full,lr=0.1 (k=v1|v2 for several).")] = "",
    by: Annotated[str, typer.Option(help="One table per value of these fields: data,activation.")] = "",
    tune: Annotated[str, typer.Option(help="The knob of which each side takes its best value.")] = "lr",
    until: Annotated[
        str | None,
        typer.Option(help="Count steps until a threshold: train_loss<=0.1, test_accuracy>=0.9.", show_default=False),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print the rules by which conclusions are drawn, and stop.")
    ] = False,
    format: Annotated[
        str, typer.Option(help="table, json, csv, markdown or latex.", autocompletion=complete_format)
    ] = "table",
) -> None:
    """One row per setting: mean with its 95 % interval over seeds, and the paired difference to the baseline.

    2×2 effects, the speed of learning and the spec's claims with their verdicts follow; no claims with --where or
    --metric, for they name their own.
    """
    from bnexp import console

    if explain:
        console.print_rules()
        return
    from bnexp.comparison import compare_runs, list_claims
    from bnexp.growth import growth
    from bnexp.results import labels_of, load_results

    if format not in console.FORMATS:
        raise errors.UsageError(f"--format {format}: one of {', '.join(console.FORMATS)} is expected")
    given = (
        None if baseline == "norm=none" else _pairs("--baseline", baseline if "=" in baseline else f"norm={baseline}")
    )
    chosen = {key: value.split("|") for key, value in _pairs("--where", where).items()}
    comparisons: list[Comparison] = []
    claims: list[ClaimRow] = []
    hints: list[str] = []
    studies = load_results(results or ())
    console.warn_of_edits(studies)
    for one, label in zip(studies, labels_of(studies), strict=True):
        found = compare_runs(one, given, metric, chosen, [k for k in by.split(",") if k], tune, until)
        comparisons += [replace(comparison, name=label) for comparison in found]
        judged = list_claims(one) if not chosen and metric is None else ()
        claims += [replace(row, study=label) for row in judged]
        hints.append(growth(one, judged))
    console.print_comparisons(comparisons, format, claims)
    console.print_hints(hints)
    console.print_next("bnexp", "report", *(results or ()))


@app.command()
@exits
def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Results folders [default: all in results/].", autocompletion=complete_results, show_default=False
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    figures: Annotated[str, typer.Option(help="Also write figures: png,svg,pdf.")] = "",
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Write one self-contained HTML page: question, settings, curves, activations, comparison, provenance."""
    from bnexp import console
    from bnexp.page import write_report
    from bnexp.results import load_results

    formats = [kind for kind in figures.split(",") if kind]
    if unknown := set(formats) - {"png", "svg", "pdf"}:
        raise errors.UsageError(f"--figures {','.join(sorted(unknown))}: png, svg and pdf are possible")
    studies = load_results(results or ())
    console.warn_of_edits(studies)
    written = write_report(studies, output, formats)
    console.print_written(written)
    console.print_next(*(("bnexp", "compare", "--explain") if open_ else ("python", "-m", "webbrowser", output)))
    if open_:
        typer.launch(str(output.resolve()))


@app.command("export")
@exits
def export_(
    results: Annotated[
        Path, typer.Argument(help="A results folder.", autocompletion=complete_results, show_default=False)
    ],
    to: Annotated[
        str,
        typer.Option(help="parquet, tensorboard or safetensors.", autocompletion=complete_export, show_default=False),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A new folder [default: RESULTS-FORMAT].", show_default=False)
    ] = None,
) -> None:
    """Write results for other tools: tables as Parquet, curves for TensorBoard, trained networks as safetensors."""
    from bnexp import console
    from bnexp.exporting import WRITTEN, export, hint
    from bnexp.results import load_results

    (found,) = load_results([results])
    console.warn_of_edits([found])
    folder = Path(f"{results.resolve().name}-{to}") if output is None else output
    written = export(found, to, folder)
    console.print_exported(folder, len(written), WRITTEN[to])
    console.print_next(*hint(to, written))


@app.command("merge")
@exits
def merge_(
    results: Annotated[
        list[Path],
        typer.Argument(help="Results folders of one study.", autocompletion=complete_results, show_default=False),
    ],
    into: Annotated[Path, typer.Option(help="A new folder, or one of the same study.", show_default=False)],
) -> None:
    """Join results folders of one study that were trained apart: parts, or machines without a common disk.

    Finished shards are taken, each checked; what is unfinished is told and stays where it is.
    """
    from bnexp import console
    from bnexp.experiment import command_line
    from bnexp.merging import merge
    from bnexp.progress import Progress

    console.print_merged(merge(results, into, Progress(silent=True), command_line()))


def _cluster(executor: str, address: str, gpus_per_task: float, device: str) -> Cluster | None:
    """Which Ray cluster to train on; None for this machine."""
    if executor == "local" and address == "auto" and not gpus_per_task:
        return None
    if executor == "local":
        raise errors.UsageError("--address and --gpus-per-task are for --executor ray")
    if executor != "ray":
        raise errors.UsageError(f"--executor {executor}: local or ray is expected")
    if device != "auto":
        raise errors.UsageError("--device is for this machine; on a cluster --gpus-per-task asks for GPUs")
    if address not in ("auto", "local") and not address.startswith("ray://"):
        raise errors.UsageError(f"--address {address!r}: auto, local or ray://HOST:PORT is expected")
    in_parts = gpus_per_task <= 1 and (10_000 * gpus_per_task) % 1 < 1e-6
    if not (math.isfinite(gpus_per_task) and (in_parts or gpus_per_task % 1 == 0)):
        raise errors.UsageError(
            f"--gpus-per-task {gpus_per_task:g}: a part such as 0.25, or a whole number, is expected"
        )
    from bnexp.on_ray import Cluster

    return Cluster(address, gpus_per_task)


def _part(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    k, slash, n = text.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n) <= 1_000_000):
        raise errors.UsageError(f"--part {text}: K/N is expected, such as 3/16, with K from 1 to N")
    return int(k), int(n)


def _workers(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise errors.UsageError(f"--workers {text}: a number from 1 to 1024, or auto, is expected")
    return int(text)


def _pairs(option: str, text: str) -> dict[str, str]:
    """``a=b,c=d`` as a dict."""
    found = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise errors.UsageError(f"{option} {text}: key=value pairs are expected, such as norm=full,lr=0.1")
        if key.strip() in found:
            raise errors.UsageError(
                f"{option} {text}: {key.strip()} stands twice; several values are {key.strip()}=v1|v2"
            )
        found[key.strip()] = value.strip()
    return found
