"""Whether what claims ask for will be measured: metrics against the tables of the study and the tasks of its data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bnexp.claim_grammar import KnobMetric, TableMetric
from bnexp.claims import Mistake, Question, resolve_claims, with_way_out, wrong_margin
from bnexp.errors import Problem, did_you_mean
from bnexp.layout import METRIC, METRIC_KINDS, Table, tracked_units
from bnexp.metric_words import no_column, no_label, no_table, no_value, still_free
from bnexp.norms import NORMS
from bnexp.source import FieldPath
from bnexp.spec import DataFields, Setting, Spec, show

SCORES = {"accuracy": "classification", "r2": "regression", "unexplained": "regression"}  # kind -> task it exists for

_Said = tuple[FieldPath, str]  # path inside the claim, message


def claim_problems(spec: Spec, tables: Mapping[str, Table], tasks: Mapping[DataFields, str]) -> list[Problem]:
    """Everything that a claim asks for and the study does not record, where the task of its data is known."""
    mistakes = [
        Mistake(question.number - 1, inner, message)
        for question in resolve_claims(spec)
        if all(setting.data in tasks for side in (question.a, question.b) for setting in side.settings.values())
        for inner, message in _wrong(question, spec, tables, tasks)
    ]
    if not mistakes:
        return []
    return list(dict.fromkeys(spec.locate_claim(*one) for one in with_way_out(list(dict.fromkeys(mistakes)))))


def with_unexplained(names: Sequence[str]) -> list[str]:
    """Metric columns and what is derived from them: 1 − R², the unexplained share of variance."""
    return [*names, *(name.replace("_r2", "_unexplained") for name in names if "_r2" in name)]


def taps_of(setting: Setting, layer: int) -> tuple[str, ...]:
    """The taps that exist in a layer, in reading order; the output has its preactivation only."""
    model, switches = setting.model, NORMS[setting.model.norm]
    if layer > len(model.hidden):
        return ("preactivation",)
    standardized = ("standardized",) if switches.center or switches.scale else ()
    normed = (*standardized, *(("affine",) if switches.gamma or switches.beta else ()))
    if model.placement == "pre":
        return ("preactivation", *normed, "activation")
    return ("preactivation", "activation", *normed)


def _wrong(
    question: Question, spec: Spec, tables: Mapping[str, Table], tasks: Mapping[DataFields, str]
) -> Iterator[_Said]:
    metric, curves = question.claim.metric, tables["curves"]
    settings = [*question.a.settings.values(), *question.b.settings.values()]
    if isinstance(metric, TableMetric):
        yield from _wrong_table(metric, question, settings, spec, tables, tasks)
        if metric.table == "curves":
            yield from _wrong_chooser(metric.column, question, curves, settings, tasks)
    elif isinstance(metric, KnobMetric):
        if metric.threshold is not None:
            message = _wrong_column(metric.threshold[0], curves, settings, tasks)
            yield from [(("metric", "such_that"), message)] if message else []
    else:
        message = _wrong_column(metric, curves, settings, tasks)
        yield from [(("metric",), message)] if message else _wrong_chooser(metric, question, curves, settings, tasks)


def _wrong_chooser(
    name: str, question: Question, curves: Table, settings: Sequence[Setting], tasks: Mapping[DataFields, str]
) -> Iterator[_Said]:
    """Why nothing may choose the knob for a test metric (STATISTICS rule 7)."""
    match = METRIC.fullmatch(name)
    if question.claim.tune and match and match[1] == "test":
        message = _wrong_column("val" + name.removeprefix("test"), curves, settings, tasks)
        if message:
            yield ("tune",), f"validation chooses for {name}, test rows choose nothing: {message}"


def _wrong_column(name: str, curves: Table, settings: Sequence[Setting], tasks: Mapping[DataFields, str]) -> str:
    """Why a metric column will not be there for all these settings; empty if it will."""
    there = {tasks[setting.data] for setting in settings}
    known = [n for n in with_unexplained(curves.names) if (m := METRIC.fullmatch(n)) and _fits(m[2], there)]
    match = METRIC.fullmatch(name)
    if match and not _fits(match[2], there):
        data = next(setting.data.name for setting in settings if tasks[setting.data] != SCORES[match[2]])
        task = next(task for task in there if task != SCORES[match[2]])
        return f"{name} does not exist for data {data}, a {task}; metrics: {', '.join(known)}"
    if name not in known:
        if "." in name:
            return (
                f"{name}: a column of a table is a mapping, {{table: activations, column: sd, layer: 1, tap: affine}}"
            )
        return f"{name} is not recorded{did_you_mean(name, known)}; metrics: {', '.join(known)}{_statistics_hint(name)}"
    if name.startswith("val_") and any(not setting.data.validation for setting in settings):
        return f"{name} is not recorded: data.validation is 0"
    return ""


def _fits(kind: str, tasks: set[str]) -> bool:
    return kind in METRIC_KINDS and all(SCORES.get(kind, task) == task for task in tasks)


def _statistics_hint(name: str) -> str:
    match = METRIC.fullmatch(name)
    kind = match[3].removeprefix("_") or "running" if match and match[1] != "train" else ""
    return f"; evaluate: [{kind}] records it" if kind in ("running", "population", "batch") else ""


# --- tables -----------------------------------------------------------------------------------------------------------


def _wrong_table(
    metric: TableMetric,
    question: Question,
    settings: Sequence[Setting],
    spec: Spec,
    tables: Mapping[str, Table],
    tasks: Mapping[DataFields, str],
) -> Iterator[_Said]:
    if metric.table not in tables:
        yield ("metric", "table"), no_table(metric.table, tables)
        return
    table = tables[metric.table]
    columns = {column.name: column for column in table.columns}
    if metric.table == "curves":
        message = _wrong_column(metric.column, table, settings, tasks)
        if message:
            yield ("metric", "column"), message
    elif metric.column not in columns:
        yield ("metric", "column"), no_column(metric.column, metric.table, columns)
    wrong = wrong_margin(question.claim, table_scale(table, metric.column))
    if wrong and (metric.column in columns or metric.table == "curves"):
        yield ("within",), wrong
    yield from _wrong_labels(metric, table, settings, spec)
    fewest = min(setting.train.epochs for setting in settings)
    if metric.epoch is not None and metric.epoch > fewest:
        yield ("metric", "epoch"), f"there is no epoch {metric.epoch}: train.epochs is {fewest}"
    elif metric.epoch is not None and metric.epoch < table.first_epoch:
        yield ("metric", "epoch"), f"{table.name}.csv begins with epoch {table.first_epoch}"
    elif metric.epoch is not None and not _is_read(table, metric.epoch, settings):
        yield ("metric", "epoch"), f"{table.name} is not read at epoch {metric.epoch}: every is {table.every}"


def _is_read(table: Table, epoch: int, settings: Sequence[Setting]) -> bool:
    """Whether the table has rows at an epoch for all these settings: when due, at the first and at the last."""
    if table.every is None or table.name == "shift_steps" or epoch == table.first_epoch:
        return True
    return (table.every > 0 and epoch % table.every == 0) or all(epoch == s.train.epochs for s in settings)


def table_scale(table: Table, column: str) -> str:
    """raw or log: the scale a column of a table is compared on."""
    if table.name == "curves" and (match := METRIC.fullmatch(column)):
        return METRIC_KINDS[match[2]][0]
    return "log" if any(known.log for known in table.columns if known.name == column) else "raw"


def _wrong_labels(metric: TableMetric, table: Table, settings: Sequence[Setting], spec: Spec) -> Iterator[_Said]:
    """Labels that the table does not have, values that do not exist, and labels that are still free."""
    names = [label.name for label in table.labels]
    for name in metric.labels:
        if name not in names:
            yield ("metric", name), no_label(name, table.name, names)
    free: dict[str, list[str]] = {}
    for name in names:
        values = _label_values(name, metric, table, settings, spec.study.track)
        if name in metric.labels:
            lacking = next((there for there in values if there and show(metric.labels[name]) not in there), None)
            if lacking is not None:
                yield ("metric", name), no_value(name, show(metric.labels[name]), lacking, "on both sides")
        elif any(len(there) != 1 for there in values):
            free[name] = list(dict.fromkeys(value for there in values for value in there))
    if free:
        yield ("metric",), still_free(free)


def _label_values(
    name: str, metric: TableMetric, table: Table, settings: Sequence[Setting], track: int
) -> list[tuple[str, ...]]:
    """The values that a label has for each setting, given the labels that are fixed; empty where nobody knows yet."""
    layer = show(metric.labels.get("layer"))
    number = int(layer) if layer.isdecimal() else 0
    fixed = next((label.values for label in table.labels if label.name == name), ())
    found = []
    for setting in settings:
        layers = range(1, len(setting.model.hidden) + (1 if table.hidden_only else 2))
        here = [number] if number in layers else layers
        if name == "layer":
            found.append(tuple(map(str, layers)))
        elif name == "tap":
            taps = [tap for one in here for tap in taps_of(setting, one)]
            found.append(tuple(dict.fromkeys(taps)))
        elif name == "unit" and 1 <= number <= len(setting.model.hidden):
            found.append(tuple(map(str, tracked_units(setting.model.hidden[number - 1], track))))
        else:
            found.append(fixed)
    return list(dict.fromkeys(found))
