"""Claims of a spec: from what was written to the settings that each side compares, and every mistake on the way.

A claim is asked once per value of ``each``: a Question. Each side of a question is exactly one setting, or one per
value of the knob (``tune``, or the field of ``largest``/``smallest``). Values are compared as the study shows them.
Norm none has no placement, so it stands at every one and counts once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from bnexp.claim_grammar import METRIC_FORMS, Claim, KnobMetric, TableMetric, leaf_of
from bnexp.errors import SpecError, UsageError, did_you_mean
from bnexp.layout import METRIC, METRIC_KINDS
from bnexp.source import FieldPath
from bnexp.spec import Setting, Spec, leaves, show

WAY_OUT = "; to train without claims, add the override claims=[]"
_SHOWN = 10  # values that a message lists


class Mistake(NamedTuple):
    """Something wrong with a claim: its place in the list (from 0), the path inside it, and what."""

    claim: int
    inner: FieldPath
    message: str
    at_key: bool = False


@dataclass(frozen=True)
class Side:
    """One side of a question: ``fields`` are its own, ``settings`` one per value of the knob ("" without a knob)."""

    fields: Mapping[str, str]
    settings: Mapping[str, Setting]


@dataclass(frozen=True)
class Question:
    """What one claim asks at one combination of values of ``each``; ``number`` is the claim's, from 1."""

    number: int
    claim: Claim
    where: Mapping[str, str]
    each: Mapping[str, str]
    knob: str | None
    a: Side
    b: Side

    @property
    def title(self) -> str:
        """``claim 2`` or ``claim 2, activation=relu``."""
        return ", ".join([f"claim {self.number}", *(f"{leaf}={value}" for leaf, value in self.each.items())])


def resolve_claims(spec: Spec) -> tuple[Question, ...]:
    """Every question of the spec's claims, in their order; raise SpecError if one does not single out its settings."""
    questions, mistakes = ask(dict(enumerate(spec.claims)), spec.settings)
    if mistakes:
        raise SpecError(dict.fromkeys(spec.locate_claim(*mistake) for mistake in mistakes))
    return questions


def with_way_out(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """The same, the last one saying how to go on without claims."""
    *others, last = mistakes
    return [*others, last._replace(message=last.message + WAY_OUT)]


def scale_of(metric: str | TableMetric | KnobMetric) -> Literal["raw", "log"] | None:
    """raw or log for a metric whose name alone tells; None for a table's."""
    if isinstance(metric, KnobMetric):
        return "log" if metric.knob in LOG_KNOBS else "raw"
    match = METRIC.fullmatch(metric) if isinstance(metric, str) else None
    return METRIC_KINDS[match[2]][0] if match else None


def metric_text(metric: str | TableMetric | KnobMetric) -> str:
    """The metric in words: ``activations sd, layer 1, tap affine, last epoch``; ``largest lr such that learned``."""
    if isinstance(metric, str):
        return metric
    if isinstance(metric, TableMetric):
        labels = [f"{name} {show(value)}" for name, value in metric.labels.items()]
        epochs = f"epoch {metric.epoch}" if metric.over is None else _OVER[metric.over]
        return ", ".join([f"{metric.table} {metric.column}", *labels, epochs])
    condition = "learned" if metric.threshold is None else " ".join(show(part) for part in metric.threshold)
    return f"{'largest' if metric.largest else 'smallest'} {metric.knob} such that {condition}"


def table_metric(text: str) -> TableMetric:
    """The metric of ``TABLE.COLUMN``, or ``TABLE.COLUMN:label=value,over=mean``; raise UsageError if it is none."""
    head, colon, rest = text.partition(":")
    table, dot, column = head.partition(".")
    pairs = [part.partition("=") for part in rest.split(",")] if colon else []
    names = [name.strip() for name, _, _ in pairs]
    values = [value.strip() for _, _, value in pairs]
    if not (table and dot and column and all(names) and all(values)) or {"table", "column"} & set(names):
        raise UsageError(f"metric: TABLE.COLUMN or TABLE.COLUMN:label=value,over=mean is expected, not {text!r}")
    if len(set(names)) != len(names):
        raise UsageError(f"metric: the same name stands twice in {rest!r}")
    given: dict[str, Any] = dict(zip(names, values, strict=True))
    if "epoch" in given and given["epoch"].isdecimal():
        given["epoch"] = int(given["epoch"])
    try:
        return TableMetric(table=table, column=column, **given)
    except ValidationError as error:
        wrong = next(_in_words(0, given, error))
        raise UsageError(f"metric: {': '.join([*map(str, wrong.inner), wrong.message])}") from None


_OVER = {"last": "last epoch", "mean": "mean over epochs", "max": "largest of all epochs", "sum": "sum over epochs"}

MAX_QUESTIONS = 10_000  # assumption: nobody has thought of more before the run

# Fields whose values make a difference as ratios, as lr 0.1 to 1 and 1 to 10 do (assumption).
LOG_KNOBS = ("lr", "adam_eps", "weight_sd", "batch_size", "epochs", "samples", "subset")


# --- what was written -------------------------------------------------------------------------------------------------


def parse_claim(index: int, written: Any) -> tuple[Claim | None, list[Mistake]]:
    """One claim from plain data (lists as tuples), and everything that is wrong with its form.

    With mistakes, a claim is returned only so that its settings can be looked at as well.
    """
    if not isinstance(written, dict):
        return None, [Mistake(index, (), "a claim is a mapping with at least claim, a, b, metric and expect")]
    mistakes = []
    if written.get("expect") == "equal":
        for name, what in (("within", "the margin: a number, 10% or x1.25"), ("why", "one line: why this margin")):
            if written.get(name) is None:
                mistakes.append(Mistake(index, (name,), f"expect: equal needs {name}, {what}"))
    try:
        claim = Claim.model_validate(written)
    except ValidationError as error:
        wrong = {str(detail["loc"][0]) for detail in error.errors()}
        return _stand_in(written, wrong), [*mistakes, *_in_words(index, written, error)]
    scale = scale_of(claim.metric)
    if scale is not None and (unfit := wrong_margin(claim, scale)):
        mistakes.append(Mistake(index, ("within",), unfit))
    return claim, mistakes


def _stand_in(written: Mapping[str, Any], wrong: set[str]) -> Claim | None:
    """The claim with harmless values for what is wrong, if its settings do not depend on it."""
    if wrong & {"where", "each", "a", "b", "tune", "metric"}:
        return None
    sound = {name: value for name, value in written.items() if name not in wrong}
    return Claim.model_validate({"claim": "?", "expect": "less", **sound})


def wrong_margin(claim: Claim, scale: str) -> str:
    """Why ``within`` does not fit a metric of this scale; empty if it does."""
    if claim.within is None or claim.within_is_ratio == (scale == "log"):
        return ""
    if scale == "log":
        return f"this metric is compared as a ratio: 10% or x1.25 is expected, not {claim.within}"
    return f"this metric is compared as a difference: a number in its units is expected, not {claim.within!r}"


def _in_words(index: int, written: Mapping[str, Any], error: ValidationError) -> Iterator[Mistake]:
    known: dict[FieldPath, Sequence[str]] = {
        (): tuple(Claim.model_fields),
        ("metric",): tuple(KnobMetric.model_fields),
    }
    for detail in error.errors():
        inner = tuple(part for part in detail["loc"] if part not in METRIC_FORMS)
        message = detail["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("dictionary", "mapping")
        message = message[:1].lower() + message[1:]
        unknown = detail["type"] == "extra_forbidden"
        if unknown:
            message = f"no such field{did_you_mean(str(inner[-1]), known.get(inner[:-1], ()))}"
        elif detail["type"] == "missing":
            message = "is required"
        elif detail["type"] == "literal_error":
            found = detail["input"]
            message += f", not {found!r:.60}" + did_you_mean(str(found), detail["ctx"]["expected"].split("'")[1::2])
        yield Mistake(index, inner, message, unknown)


# --- the settings of each side ----------------------------------------------------------------------------------------


def ask(claims: Mapping[int, Claim], settings: Sequence[Setting]) -> tuple[tuple[Question, ...], list[Mistake]]:
    """The questions of the claims (by their index in the spec) to these settings, or what keeps them from being one."""
    grid = _Grid(settings)
    questions: list[Question] = []
    mistakes: list[Mistake] = []
    for index, claim in claims.items():
        found, wrong = _Asking(index, claim, grid).questions(MAX_QUESTIONS - len(questions))
        questions += found
        mistakes += wrong
        if len(questions) >= MAX_QUESTIONS and wrong:
            break
    return tuple(questions), with_way_out(mistakes) if mistakes else []


class _Grid:
    """The settings of a study as columns of text, made when they are first asked for."""

    def __init__(self, settings: Sequence[Setting]) -> None:
        self.settings = settings
        self.placed = [setting.model.norm != "none" for setting in settings]
        self._columns: dict[str, list[str]] = {}

    def column(self, leaf: str) -> list[str]:
        if leaf not in self._columns:
            section, name = leaves()[leaf]
            self._columns[leaf] = [show(getattr(getattr(setting, section), name)) for setting in self.settings]
        return self._columns[leaf]

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """The fields that differ between settings."""
        return tuple(leaf for leaf in leaves() if len(set(self.column(leaf))) > 1)

    def having(self, leaf: str, places: Sequence[int]) -> Sequence[int]:
        """The settings for which the field means something: those with a norm, for placement."""
        placed = [place for place in places if self.placed[place]] if leaf == "placement" else []
        return placed or places

    def values(self, leaf: str, places: Sequence[int]) -> list[str]:
        column = self.column(leaf)
        return list(dict.fromkeys(column[place] for place in self.having(leaf, places)))

    def matching(self, places: Sequence[int], fields: Mapping[str, str]) -> list[int]:
        """The settings with these values; norm none is at every placement."""
        found = list(places)
        for leaf, value in fields.items():
            column = self.column(leaf)
            anywhere = leaf == "placement"
            found = [p for p in found if column[p] == value or (anywhere and not self.placed[p])]
        return found

    def once(self, places: Sequence[int]) -> list[int]:
        """Norm none only once, whatever its placement."""
        if len(places) < 2 or all(self.placed[place] for place in places):
            return list(places)
        columns = [self.column(leaf) for leaf in self.varying if leaf != "placement"]
        kept: dict[Any, int] = {}
        for place in places:
            twins = place if self.placed[place] else tuple(column[place] for column in columns)
            kept.setdefault(twins, place)
        return list(kept.values())


class _Wrong(Exception):
    """A field or value of a claim that the study does not have."""


class _Asking:
    """Turns one claim into its questions and collects what is wrong."""

    def __init__(self, index: int, claim: Claim, grid: _Grid) -> None:
        self.index, self.claim, self.grid = index, claim, grid
        self.knob = claim.metric.knob if isinstance(claim.metric, KnobMetric) else claim.tune
        self.mistakes: list[Mistake] = []

    def questions(self, most: int) -> tuple[list[Question], list[Mistake]]:
        where, a, b = (self._shown(part, getattr(self.claim, part)) for part in ("where", "a", "b"))
        self._check_names()
        self._check_roles()
        if self.mistakes or not self.grid.settings:
            return [], self.mistakes
        places = self.grid.matching(range(len(self.grid.settings)), where)
        found: list[Question] = []
        complaints: dict[tuple[str, str], list[Mapping[str, str]]] = {}  # (sides, what) -> combinations of each
        for each, inside in self._combinations(places, a, b):
            if len(found) == most:
                message = f"the claims ask more than {MAX_QUESTIONS} questions, of which none would be left after Holm"
                self.mistakes.append(Mistake(self.index, ("each",) if each else (), message))
                return found, self.mistakes
            grids = [self._by_knob(self.grid.matching(inside, fields)) for fields in (a, b)]
            for sides_named, message in self._complaints(grids, (a, b), {**where, **each}):
                complaints.setdefault((sides_named, message), []).append(each)
            sides = [Side(fields, self._settings(grid)) for fields, grid in zip((a, b), grids, strict=True)]
            found.append(Question(self.index + 1, self.claim, where, each, self.knob, sides[0], sides[1]))
        for (named, message), combinations in complaints.items():
            inner: FieldPath = (named,) if len(named) == 1 else ()
            self.mistakes.append(Mistake(self.index, inner, _for(combinations) + message))
        return found, self.mistakes

    # --- names and values ---

    def _shown(self, part: str, fields: Mapping[str, Any]) -> dict[str, str]:
        """Values as the study shows them: ``1e-1`` finds 0.1, ``[64, 64]`` 64-64."""
        found = {}
        for name, value in fields.items():
            try:
                found[name] = self._value(str(name), value)
            except _Wrong as wrong:
                self.mistakes.append(Mistake(self.index, (part, name), str(wrong)))
        return found

    def _value(self, name: str, value: Any) -> str:
        _check_leaf(name)
        vector = name in ("hidden", "teacher_hidden", "adam_betas")
        if isinstance(value, dict) or (isinstance(value, list | tuple) and not (vector and _is_flat(value))):
            raise _Wrong("takes one value; to ask once per value, name the field in each")
        text = show(value)
        known = self.grid.values(name, range(len(self.grid.settings)))
        if name == "placement":  # without a norm anywhere, both placements are as good
            known = list(dict.fromkeys(self.grid.column(name)))
        found = text if text in known else next((other for other in known if _same_number(other, text)), None)
        if found is None:
            raise _Wrong(f"no {name}={text} in this study{did_you_mean(text, known)}; {name} is: {_listed(known)}")
        return found

    def _check_names(self) -> None:
        named = [*((("each", i), name) for i, name in enumerate(self.claim.each)), (("tune",), self.claim.tune)]
        if isinstance(self.claim.metric, KnobMetric):
            end = "largest" if self.claim.metric.largest else "smallest"
            named.append((("metric", end), self.knob))
        for inner, name in named:
            try:
                if name is not None:
                    _check_leaf(name)
            except _Wrong as wrong:
                self.mistakes.append(Mistake(self.index, inner, str(wrong)))
        if isinstance(self.claim.metric, KnobMetric) and self.knob in leaves():
            odd = [v for v in self.grid.values(str(self.knob), range(len(self.grid.settings))) if not _is_number(v)]
            if odd:
                message = f"{self.knob} has values that are no numbers: {_listed(odd)}"
                self.mistakes.append(Mistake(self.index, ("metric",), message))

    def _check_roles(self) -> None:
        """Every field has one role, and the sides differ in the same fields."""
        claim = self.claim
        if set(claim.a) != set(claim.b):
            only = sorted(set(claim.a) ^ set(claim.b))
            self._note(("b",), f"a and b name the same fields; {', '.join(only)} stands on one side only")
        elif {name: show(v) for name, v in claim.a.items()} == {name: show(v) for name, v in claim.b.items()}:
            self._note(("b",), "a and b are the same")
        if isinstance(claim.metric, KnobMetric) and claim.tune is not None:
            self._note(("tune",), f"the metric looks at every value of {self.knob} itself: nothing is tuned")
        roles = [("where", list(claim.where)), ("a", list(claim.a)), ("each", list(claim.each))]
        roles += [("tune" if claim.tune is not None else "metric", [self.knob] if self.knob else [])]
        taken: dict[str, str] = {}
        for role, names in roles:
            for name in map(leaf_of, map(str, names)):
                if name in taken:
                    twice = f"stands twice in {role}" if taken[name] == role else f"stands in {taken[name]} already"
                    self._note((role,), f"{name} {twice}")
                taken[name] = role

    def _note(self, inner: FieldPath, message: str) -> None:
        self.mistakes.append(Mistake(self.index, inner, message))

    # --- settings ---

    def _combinations(
        self, places: Sequence[int], a: Mapping[str, str], b: Mapping[str, str]
    ) -> list[tuple[dict[str, str], list[int]]]:
        """The combinations of values of ``each`` at which either side has a setting, and the settings there."""
        grid, names = self.grid, self.claim.each
        both = sorted({*grid.matching(places, a), *grid.matching(places, b)})
        if not names:
            return [({}, both)]
        columns = [grid.column(name) for name in names]
        found: dict[tuple[str, ...], list[int]] = {}
        everywhere: dict[tuple[str, ...], list[int]] = {}  # norm none, where placement is asked for each
        others = [i for i, name in enumerate(names) if name != "placement"]
        for place in both:
            key = tuple(column[place] for column in columns)
            if "placement" in names and not grid.placed[place]:
                everywhere.setdefault(tuple(key[i] for i in others), []).append(place)
            else:
                found.setdefault(key, []).append(place)
        for key, inside in found.items():
            inside += everywhere.get(tuple(key[i] for i in others), []) if everywhere else []
        met = {tuple(key[i] for i in others) for key in found}
        for rest, inside in everywhere.items():
            if rest not in met:
                found[tuple(column[inside[0]] for column in columns)] = inside
        return [(dict(zip(names, key, strict=True)), inside) for key, inside in found.items()]

    def _by_knob(self, places: Sequence[int]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        column = self.grid.column(self.knob) if self.knob else None
        for place in places:
            found.setdefault(column[place] if column else "", []).append(place)
        return {value: self.grid.once(same) for value, same in found.items()}

    def _settings(self, places: Mapping[str, Sequence[int]]) -> dict[str, Setting]:
        return {value: self.grid.settings[same[0]] for value, same in places.items()}

    def _complaints(
        self, grids: Sequence[Mapping[str, Sequence[int]]], sides: Sequence[Mapping[str, str]], fixed: Mapping[str, str]
    ) -> list[tuple[str, str]]:
        """What keeps the sides from being exactly one setting, as (sides, message); both at once if it is the same."""
        found: dict[str, list[str]] = {}
        for name, fields, grid in zip("ab", sides, grids, strict=True):
            crowded = [same for same in grid.values() if len(same) > 1]
            if not grid:
                together = ", ".join(f"{leaf}={value}" for leaf, value in {**fixed, **fields}.items())
                found.setdefault(f"no setting has {together}", []).append(name)
            elif crowded:
                found.setdefault(self._still_free(crowded), []).append(name)
        return [("".join(names), message) for message, names in found.items()]

    def _still_free(self, crowded: Sequence[Sequence[int]]) -> str:
        """The fields that still differ, with their values."""
        free: dict[str, dict[str, None]] = {}
        for same in crowded:
            for leaf in self.grid.varying:
                values = self.grid.values(leaf, same)
                if len(values) > 1 and leaf != self.knob:
                    free.setdefault(leaf, {}).update(dict.fromkeys(values))
        listed = ", ".join(f"{leaf} ({_listed(list(values))})" for leaf, values in free.items())
        verb, it = ("is", "it") if len(free) == 1 else ("are", "them")
        ways = f"fix {it} in where, a and b, or name {it} in each{'' if self.knob else ' or one in tune'}"
        return f"not one setting: still free {verb} {listed}; {ways}"


def _check_leaf(name: str) -> None:
    if name not in leaves():
        dotted = [f"{section}.{field}" for section, field in leaves().values()]
        raise _Wrong(f"no such field {name!r}{did_you_mean(name, [*leaves(), *dotted])}")


def _is_flat(value: Sequence[Any]) -> bool:
    return not any(isinstance(item, list | tuple | dict) for item in value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _same_number(a: str, b: str) -> bool:
    return _is_number(a) and _is_number(b) and float(a) == float(b)


def _listed(values: Sequence[str]) -> str:
    shown = [value or "(empty)" for value in values[:_SHOWN]]
    return ", ".join(shown) + (f", … ({len(values)})" if len(values) > _SHOWN else "")


def _for(combinations: Sequence[Mapping[str, str]]) -> str:
    """``for activation=relu: ``, the first of the combinations; nothing where each is empty."""
    if not combinations[0]:
        return ""
    first = ", ".join(f"{leaf}={value}" for leaf, value in combinations[0].items())
    return f"for {first}{f' and {len(combinations) - 1} more' if len(combinations) > 1 else ''}: "
