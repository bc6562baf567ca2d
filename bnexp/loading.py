"""A YAML file and overrides to a Spec: axes, variants, and every mistake at once.

Values become lists of alternatives *before* they are validated, one by one, so that each message names exactly the
value that is wrong and where it stands.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from bnexp import source
from bnexp.claim_grammar import Claim, leaf_of
from bnexp.claims import ask, parse_claim
from bnexp.errors import Problem, Problems, SpecError, did_you_mean
from bnexp.source import Document, FieldPath
from bnexp.spec import (
    DEFAULT_MEASURES,
    DEFAULT_SEEDS,
    MEASURES,
    SECTIONS,
    Setting,
    Spec,
    StudyFields,
    contradictions,
    is_axis,
    is_safe_name,
    setting_fields,
)

TOP = (
    "name",
    "question",
    "data",
    "model",
    "train",
    "seeds",
    *StudyFields.model_fields,
    "measure",
    "variants",
    "claims",
)
MAX_CLAIMS = 100  # assumption: nobody has thought of more before the run
MAX_SETTINGS = 5_000  # assumption: a larger grid is a mistake; refused before it is built

Locate = Callable[..., Problem]  # (message, at_key=False) -> Problem


@dataclass(frozen=True)
class _Given:
    """A value as it was written, with its dotted path and a way to point at it."""

    value: Any
    path: str
    locate: Callable[[str, FieldPath, bool], Problem]

    def problem(self, message: str, inner: FieldPath = (), at_key: bool = False) -> Problem:
        return self.locate(message, inner, at_key)


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """Read a spec file, apply ``key=value`` overrides, and resolve it; raise SpecError with every problem."""
    path = Path(path)
    document = source.read_file(path)
    return resolve(document, overrides, default_name=path.stem, folder=path.parent)


def resolve(document: Document, overrides: Sequence[str], default_name: str, folder: Path) -> Spec:
    """Resolve a parsed document; ``folder`` is where relative data paths start."""
    return _Resolver(document, overrides, default_name, folder).spec()


class _Resolver:
    """Collects problems while it turns a document into a Spec."""

    def __init__(self, document: Document, overrides: Sequence[str], default_name: str, folder: Path) -> None:
        self.document, self.folder, self.default_name = document, folder, default_name
        self.problems = Problems()
        self.malformed: set[str] = set()  # sections that are no mappings
        self.given: dict[str, _Given] = {}  # dotted path of a field -> what was written
        self.overridden: set[str] = set()  # of these, what an override wrote
        self._read_document()
        for text in overrides:
            self._read_override(text)

    # --- what was written ---------------------------------------------------------------------------------------------

    def _read_document(self) -> None:
        data = self.document.data
        if data is None:
            data = {}
        if not isinstance(data, dict):
            self.problems.append(self.document.problem((), "a spec is a mapping of fields to values"))
            return
        for key, value in data.items():
            if key not in TOP:
                self._unknown(self._in_file((key,)), key, TOP)
            elif key in SECTIONS:
                self.given.update(self._section(key, value, (key,)))
            else:
                self.given[key] = self._in_file((key,), value)

    def _in_file(self, path: FieldPath, value: Any = None, dotted: str | None = None) -> _Given:
        def locate(message: str, inner: FieldPath, at_key: bool) -> Problem:
            return self.document.problem((*path, *inner), message, at_key=at_key, dotted=dotted)

        shown = ".".join(str(part) for part in path) if dotted is None else dotted
        return _Given(value, shown, locate)

    def _section(self, section: str, value: Any, path: FieldPath) -> dict[str, _Given]:
        """The fields of data, model or train; ``data: digits`` is short for ``data: {name: digits}``."""
        if section == "data" and (isinstance(value, str) or _is_list_of_text(value)):
            return {"data.name": self._in_file(path, value)}
        if not isinstance(value, dict):
            self.problems.append(self.document.problem(path, "a mapping of fields to values is expected"))
            self.malformed.add(section)
            return {}
        found = {}
        for key, item in value.items():
            given = self._in_file((*path, key), item, f"{section}.{key}")
            if key not in SECTIONS[section].model_fields:
                self._unknown(given, key, SECTIONS[section].model_fields)
            else:
                found[f"{section}.{key}"] = given
        return found

    def _read_override(self, text: str) -> None:
        def locate(message: str, inner: FieldPath, at_key: bool) -> Problem:
            return Problem(f"override {text!r}", "", message)

        key, equals, written = text.partition("=")
        if not equals:
            self.problems.append(locate("expected key=value, such as train.lr=0.1", (), False))
            return
        try:
            items = source.parse(f"[{written}]", "override").data
        except SpecError as error:
            self.problems.append(locate(error.problems[0].message, (), False))
            return
        if not items:
            self.problems.append(locate(f"{key} has no value", (), False))
            return
        value = items[0] if len(items) == 1 else items
        if key in SECTIONS and (key != "data" or isinstance(value, Mapping)):
            names = list(value) if isinstance(value, Mapping) and value else ["FIELD"]
            said = " ".join(f"{key}.{name}=…" for name in names)
            self.problems.append(locate(f"{key} has several fields; set each by itself: {said}", (), False))
            return
        key = "data.name" if key == "data" else key
        given = _Given(value, key, locate)
        paths = [f"{section}.{name}" for section, name, _ in setting_fields()]
        top = [name for name in TOP if name not in SECTIONS]
        if key in paths or key in top:
            self.given[key] = given
            self.overridden.add(key)
        elif key.startswith("measure."):
            self._override_measure(key.split(".")[1:], given)
        else:
            by_leaf = {path.split(".")[1]: path for path in paths}
            hint = f"; did you mean {by_leaf[key]!r}?" if key in by_leaf else did_you_mean(key, [*paths, *top])
            self.problems.append(given.problem(f"no such field{hint}"))

    def _override_measure(self, parts: list[str], given: _Given) -> None:
        """``measure.activations.every=5`` sets one option of one measure and switches it on."""
        if len(parts) != 2:
            self.problems.append(given.problem("expected measure.<name>.<option>=value"))
            return
        written = self.given.get("measure")
        value = DEFAULT_MEASURES if written is None else written.value
        value = [value] if isinstance(value, str) else value
        sound = value is None or isinstance(value, list | tuple | Mapping)
        if not sound or not all(isinstance(name, str) for name in value or ()):
            return  # what is wrong with it is said where it stands
        options = {name: {} for name in value} if isinstance(value, list | tuple) else dict(value or {})
        options[parts[0]] = {**(options.get(parts[0]) or {}), parts[1]: given.value}
        self.given["measure"] = _Given(options, "measure", given.locate)

    def _unknown(self, given: _Given, key: str, known: Iterable[str]) -> None:
        self.problems.append(given.problem(f"no such field{did_you_mean(str(key), known)}", at_key=True))

    # --- values -------------------------------------------------------------------------------------------------------

    def _validate(
        self, info: FieldInfo, given: _Given, value: Any, inner: FieldPath = (), prefix: str = ""
    ) -> tuple[bool, Any]:
        """Validate one value; lists stand for tuples. Returns (valid, value) and notes the problem."""
        try:
            return True, _validator(info).validate_python(_tuples(value))
        except ValidationError as error:
            item = next(iter(error.errors()[0]["loc"]), None)  # of a list one, or one that is missing
            items = (item,) if isinstance(item, int) and isinstance(value, list) and item < len(value) else ()
            wrong = value[items[0]] if items else value
            self.problems.append(given.problem(prefix + _explain(error, wrong), (*inner, *items)))
            return False, None

    def _alternatives(self, section: str, name: str, info: FieldInfo, given: _Given) -> list[Any]:
        """The valid values of one field: a list is an axis where a scalar is expected."""
        value = given.value
        listed = isinstance(value, list)
        is_vector = name in ("hidden", "teacher_hidden", "adam_betas")
        if is_vector:
            listed = listed and bool(value) and all(isinstance(item, list) for item in value)
        if listed and not is_axis(info):
            self.problems.append(given.problem("takes one value, not a list"))
            return []
        if listed and not value:
            self.problems.append(given.problem("an empty list has no values"))
            return []
        written = [((i,), item) for i, item in enumerate(value)] if listed else [((), value)]
        valid: dict[Any, None] = {}
        for inner, item in written:
            ok, checked = self._validate(info, given, item, inner)
            if ok and checked in valid:
                self.problems.append(given.problem(f"{item} stands here twice", inner))
            elif ok:
                valid[checked] = None
        return list(valid)

    def _grid(self, fields: Mapping[str, _Given]) -> list[Setting]:
        """The product of all axes; the first declared field varies slowest."""
        axes: list[list[Any]] = []
        names: list[tuple[str, str]] = []
        unsound: set[str] = set()  # sections of which nobody knows what the other fields mean
        for section, name, info in setting_fields():
            given = fields.get(f"{section}.{name}")
            if given is None:
                values = [info.default]
                if info.is_required():  # go on to find the other problems
                    values = ["digits"]
                    unsound.add(section)
                    if section not in self.malformed:
                        self.problems.append(self.document.problem((), f"{section} is required: which data set?"))
            else:
                values = self._alternatives(section, name, info, given)
                if not values:  # reported already; go on to find the other problems
                    values = [info.default] if not info.is_required() else ["digits"]
                    unsound |= {section} if info.is_required() else set()
            if name == "path" and values[0] is not None:
                values = [str((self.folder / values[0]).resolve())]
            names.append((section, name))
            axes.append(values)
        size = 1
        for values in axes:
            size *= len(values)
        if size > MAX_SETTINGS:
            self.problems.append(self.document.problem((), f"{size} settings; at most {MAX_SETTINGS}"))
            return []
        settings = []
        for combination in itertools.product(*axes):
            parts: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
            for (section, name), value in zip(names, combination, strict=True):
                parts[section][name] = value
            settings.append(Setting(**{s: SECTIONS[s].model_construct(**parts[s]) for s in SECTIONS}))  # type: ignore[arg-type]
        for path, message in dict.fromkeys(itertools.chain.from_iterable(map(contradictions, settings))):
            if path.split(".")[0] not in unsound:
                self.problems.append(self._point(fields, path, message))
        return settings

    def _point(self, fields: Mapping[str, _Given], path: str, message: str) -> Problem:
        given = fields.get(path)
        if given is not None:
            return given.problem(message)
        return self.document.problem(tuple(path.split(".")), message, dotted=path)

    def _variant(self, index: int, written: Any) -> dict[str, _Given]:
        """The fields that one variant replaces, written nested or as dotted paths."""
        path: FieldPath = ("variants", index)
        if not isinstance(written, dict):
            self.problems.append(self.document.problem(path, "a variant is a mapping of fields to values"))
            return {}
        found: dict[str, _Given] = {}
        for key, value in written.items():
            section, dot, name = str(key).partition(".")
            if key in SECTIONS:
                found.update(self._section(key, value, (*path, key)))
            elif dot and section in SECTIONS and name in SECTIONS[section].model_fields:
                found[key] = self._in_file((*path, key), value, key)
            else:
                known = [*SECTIONS, *(f"{s}.{n}" for s, n, _ in setting_fields())]
                self._unknown(self._in_file((*path, key)), key, known)
        return found

    # --- the parts ----------------------------------------------------------------------------------------------------

    def _settings(self) -> tuple[list[Setting], list[dict[str, _Given]]]:
        base = {path: given for path, given in self.given.items() if "." in path}
        written = self.given.get("variants")
        if written is None or written.value is None or written.value == []:
            grid = self._grid(base)
            return grid, [base] * len(grid)
        if not isinstance(written.value, list):
            self.problems.append(written.problem("variants is a list of partial specs"))
            return [], []
        settings: list[Setting] = []
        origins: list[dict[str, _Given]] = []
        seen: dict[str, int] = {}
        hidden = set(self.overridden)  # overrides that no variant has let through yet
        for index, variant in enumerate(written.value):
            known = len(self.problems)
            own = self._variant(index, variant)
            fields, hidden = {**base, **own}, hidden & own.keys()
            if len(self.problems) > known:  # what is left of it may repeat another
                continue
            for setting in self._grid(fields):
                first = seen.setdefault(setting.key, index)
                if first != index:
                    message = f"variant {index + 1} repeats a setting of variant {first + 1}"
                    self.problems.append(self.document.problem(("variants", index), message))
                    break
                settings.append(setting)
                origins.append(fields)
        for path in sorted(hidden & base.keys()):
            self.problems.append(base[path].problem(f"every variant sets {path} itself; change it there, in the file"))
        return settings, origins

    def _seeds(self) -> tuple[int, ...]:
        given = self.given.get("seeds")
        if given is None:
            return tuple(range(DEFAULT_SEEDS))
        value = given.value
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000:
            return tuple(range(value))
        if isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})", value)):
            first, last = int(match[1]), int(match[2])
            if first <= last < first + 1_000_000:
                return tuple(range(first, last + 1))
        if isinstance(value, list) and value and all(_is_seed(item) for item in value):
            if len(set(value)) == len(value):
                return tuple(value)
            self.problems.append(given.problem("the same seed stands here twice"))
            return (0,)
        message = f"a count (10), a list ([0, 3, 7]) or a range (0..9) of whole numbers is expected, not {value!r:.60}"
        self.problems.append(given.problem(message))
        return (0,)

    def _study(self) -> StudyFields:
        values = {}
        for name, info in StudyFields.model_fields.items():
            given = self.given.get(name)
            if given is not None:
                value = [given.value] if name == "evaluate" and isinstance(given.value, str) else given.value
                ok, checked = self._validate(info, given, value)
                if ok:
                    values[name] = checked
        evaluate = values.get("evaluate", ())
        if len(set(evaluate)) != len(evaluate):
            self.problems.append(self.given["evaluate"].problem("the same word stands here twice"))
        return StudyFields.model_construct(**values)

    def _measure(self) -> dict[str, dict[str, Any]]:
        given = self.given.get("measure")
        if given is None:
            return {name: MEASURES[name].model_validate({}).model_dump() for name in DEFAULT_MEASURES}
        value = given.value
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            if len(set(value)) != len(value):
                self.problems.append(given.problem("the same measure stands here twice"))
            places: dict[str, FieldPath] = {name: (index,) for index, name in enumerate(value)}
            value = dict.fromkeys(value)
        else:
            places = {}
        if not isinstance(value, dict):
            self.problems.append(
                given.problem(
                    "a list of names, or one mapping of names to options, such as {shift: {steps: 50}, rank: {}}"
                )
            )
            return {}
        found = {}
        for name, options in value.items():
            if name not in MEASURES:
                message = f"{name}: no such measure{did_you_mean(name, MEASURES)}"
                self.problems.append(given.problem(message, places.get(name, (name,)), at_key=name not in places))
                continue
            found[name] = self._measure_options(given, name, options)
        return found

    def _measure_options(self, given: _Given, name: str, options: Any) -> dict[str, Any]:
        options = {} if options is None else options
        known = MEASURES[name].model_fields
        if not isinstance(options, dict):
            self.problems.append(given.problem(f"{name}: its options are a mapping, such as {{every: 5}}", (name,)))
            return {}
        found = {key: info.default for key, info in known.items()}
        for key, value in options.items():
            if key not in known:
                hint = did_you_mean(str(key), known)
                self.problems.append(given.problem(f"{name}.{key}: no such option{hint}", (name, key), at_key=True))
                continue
            ok, checked = self._validate(known[key], given, value, (name, key), f"{name}.{key}: ")
            found[key] = checked if ok else known[key].default
        return found

    def _claims(self) -> dict[int, Claim]:
        """The claims that are well formed, by their index in the list."""
        given = self.given.get("claims")
        if given is None or given.value is None:
            return {}
        if not isinstance(given.value, list):
            self.problems.append(given.problem("claims is a list"))
            return {}
        if len(given.value) > MAX_CLAIMS:
            self.problems.append(given.problem(f"{len(given.value)} claims; at most {MAX_CLAIMS}"))
            return {}
        claims = {}
        for index, written in enumerate(given.value):
            claim, mistakes = parse_claim(index, _tuples_inside(written))
            self.problems += [self._claim_problem(*mistake) for mistake in mistakes]
            if claim is not None:
                claims[index] = claim
        return claims

    def _claim_problem(self, index: int, inner: FieldPath, message: str, at_key: bool = False) -> Problem:
        """A problem at a place in a claim, where fields may be written as ``lr`` or ``train.lr``."""
        given = self.given["claims"]
        if len(inner) == 2 and isinstance(fields := given.value[index].get(inner[0]), dict):
            inner = (inner[0], next((name for name in fields if leaf_of(name) == inner[1]), inner[1]))
        return given.problem(message, (index, *inner), at_key)

    def _text(self, name: str, default: str) -> str:
        given = self.given.get(name)
        if given is None or given.value is None:
            return default
        if not isinstance(given.value, str):
            self.problems.append(given.problem(f"text is expected; quote it: {name}: '{given.value}'"))
            return default
        return given.value

    def _name(self) -> str:
        name = self._text("name", self.default_name)
        if not is_safe_name(name):
            message = f"{name!r:.80} cannot name a folder: letters, digits, '.', '_' and '-', at most 64, no path"
            given = self.given.get("name")
            self.problems.append(given.problem(message) if given else self.document.problem((), f"name: {message}"))
        return name

    def spec(self) -> Spec:
        """Build the Spec, or raise every problem that was found, in the order of the file."""
        settings, origins = self._settings()
        settings_sound = not self.problems  # else claims would be asked of settings that nobody meant
        name, question, seeds = self._name(), self._text("question", ""), self._seeds()
        study, measure = self._study(), self._measure()
        others_sound = not self.problems
        claims = self._claims()
        if settings_sound:
            mistakes = ask(claims, settings)[1]
            self.problems += [self._claim_problem(*mistake) for mistake in mistakes]
            mistaken = {mistake.claim for mistake in mistakes}
            claims = {index: claim for index, claim in claims.items() if index not in mistaken}
        problems = sorted(self.problems, key=lambda problem: problem.position)
        named = [] if any(map(_is_of_data, problems)) else [setting.data for setting in settings]
        if not others_sound:
            raise SpecError(problems, data=dict.fromkeys(named))
        origin_of = {setting.key: origin for setting, origin in zip(settings, origins, strict=True)}

        def locate(setting: Setting, path: str, message: str) -> Problem:
            return self._point(origin_of[setting.key], path, message)

        places = list(claims)

        def locate_claim(index: int, inner: FieldPath, message: str, at_key: bool = False) -> Problem:
            return self._claim_problem(places[index], inner, message, at_key)

        said = tuple(claims.values())
        document = self._resolved(name, question, seeds, study, measure, said)
        spec = Spec(name, question, tuple(settings), seeds, study, measure, said, document, locate, locate_claim)
        if problems:
            raise SpecError(problems, data=dict.fromkeys(named), sound=spec)
        return spec

    def _resolved(
        self,
        name: str,
        question: str,
        seeds: tuple[int, ...],
        study: StudyFields,
        measure: dict[str, dict[str, Any]],
        claims: tuple[Claim, ...],
    ) -> dict[str, Any]:
        """The spec as plain data with every default written out; reading it gives the same Spec."""
        data: dict[str, Any] = {"name": name, "question": question}
        for section, field, info in setting_fields():
            given = self.given.get(f"{section}.{field}")
            value = _lists(info.default) if given is None else given.value
            if field == "path" and isinstance(value, str):
                value = str((self.folder / value).resolve())
            if value is not None and not (given is None and info.is_required()):
                data.setdefault(section, {})[field] = value
        counted = seeds == tuple(range(len(seeds)))
        data["seeds"] = len(seeds) if counted else list(seeds)
        data.update(study.model_dump(mode="json"))
        data["measure"] = measure
        variants = self.given.get("variants")
        if variants is not None and variants.value:
            data["variants"] = [self._with_absolute_path(variant) for variant in variants.value]
        data["claims"] = [claim.model_dump(mode="json", exclude_defaults=True) for claim in claims]
        return data

    def _with_absolute_path(self, variant: dict[str, Any]) -> dict[str, Any]:
        """The variant, its data path no longer relative to the file that named it."""
        found = dict(variant)
        if isinstance(found.get("data.path"), str):
            found["data.path"] = str((self.folder / found["data.path"]).resolve())
        if isinstance(found.get("data"), dict) and isinstance(found["data"].get("path"), str):
            found["data"] = {**found["data"], "path": str((self.folder / found["data"]["path"]).resolve())}
        return found


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


_VALIDATORS: dict[int, TypeAdapter[Any]] = {}  # by the identity of the field, as fields have no hash


def _validator(info: FieldInfo) -> TypeAdapter[Any]:
    """A validator for one value of the field, as strict as Fields."""
    if id(info) not in _VALIDATORS:
        _VALIDATORS[id(info)] = _new_validator(info)
    return _VALIDATORS[id(info)]


def _new_validator(info: FieldInfo) -> TypeAdapter[Any]:
    annotation: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _tuples_inside(value: Any) -> Any:
    """Lists as tuples, also in mappings."""
    if isinstance(value, dict):
        return {key: _tuples_inside(item) for key, item in value.items()}
    return tuple(map(_tuples_inside, value)) if isinstance(value, list) else value


def _explain(error: ValidationError, value: Any) -> str:
    """All that is wrong with one value, in one line."""
    details = [detail for detail in error.errors() if detail["type"] != "too_short"] or error.errors()
    messages = list(dict.fromkeys(_lower(detail["msg"]) for detail in details))
    literal = next((d for d in details if d["type"] == "literal_error"), None)
    hint = ""
    if literal is not None and isinstance(value, str):
        known = re.findall(r"'([^']*)'", literal["ctx"]["expected"])
        hint = did_you_mean(value, known)
    return f"{' or '.join(messages)}, not {value!r:.60}{hint}"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:].replace("tuple", "list")  # YAML has lists


def _is_of_data(problem: Problem) -> bool:
    return f"{problem.path}.".startswith("data.") or problem.where.startswith("override 'data")
