"""What a claim may say: its fields, the three forms of its metric, and its margin.

Which settings a claim means is found in ``bnexp.claims``; whether its metric is recorded, in ``bnexp.claim_checks``.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from bnexp.spec import SECTIONS, Fields, leaf


def leaf_of(name: str) -> str:
    """``train.lr`` and ``lr`` are the same field; other words stay as they are."""
    section, _, field_name = name.partition(".")
    known = section in SECTIONS and field_name in SECTIONS[section].model_fields
    return leaf(section, field_name) if known else name


def _leaf_names(given: Any) -> Any:
    """Names of fields as leaves; what would then stand there twice stays as it is, to be found out."""
    if isinstance(given, str):
        return leaf_of(given)
    names = [leaf_of(name) if isinstance(name, str) else name for name in given]
    if len(set(names)) != len(names):
        return given
    return dict(zip(names, given.values(), strict=True)) if isinstance(given, dict) else tuple(names)


def _one_or_more(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


Leaf = Annotated[str, AfterValidator(_leaf_names)]
Leaves = Annotated[tuple[str, ...], AfterValidator(_leaf_names), BeforeValidator(_one_or_more)]
PartialSetting = Annotated[dict[str, Any], AfterValidator(_leaf_names)]


class TableMetric(BaseModel):
    """One number per run from a per-epoch table. Further keys name label columns of the table and pick rows."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    table: str = Field(description="a per-epoch table, such as activations or ics")
    column: str = Field(description="a column of the table")
    over: Literal["mean", "max", "last", "sum"] | None = Field(
        None, description="of the epochs with a value; last unless epoch is given"
    )
    epoch: Annotated[int, Field(ge=0)] | None = Field(None, description="the value of this epoch alone")

    @property
    def labels(self) -> dict[str, Any]:
        """The label columns that pick rows, and their values."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _default(cls, given: dict[str, Any]) -> dict[str, Any]:
        return given if "over" in given or "epoch" in given else {**given, "over": "last"}

    @model_validator(mode="after")
    def _one_reduction(self) -> TableMetric:
        if self.over and self.epoch is not None:
            raise ValueError("over and epoch exclude each other: epoch picks one epoch, over joins them")
        return self


OPERATORS = (">=", ">", "<=", "<")


def _condition(given: Any) -> Any:
    if given == "learned":
        return given
    match given:
        case (str() as column, str() as operator, int() | float() as number) if operator in OPERATORS:
            if not isinstance(number, bool) and math.isfinite(number):
                return (column, operator, float(number))
    raise ValueError(f"learned, or [column, {' or '.join(OPERATORS)}, number], is expected")


class KnobMetric(Fields):
    """The largest or smallest value of a field at which a run passes: it learned, or its column passes a threshold."""

    largest: Leaf | None = Field(None, description="the field whose largest value it is")
    smallest: Leaf | None = Field(None, description="the field whose smallest value it is")
    such_that: Annotated[Any, AfterValidator(_condition)] = Field(
        description="learned, or [column, operator, number], such as [fit_accuracy, '>=', 0.99]"
    )

    @property
    def threshold(self) -> tuple[str, str, float] | None:
        """Column, operator and number of ``such_that``; None where it says learned."""
        return None if isinstance(self.such_that, str) else self.such_that

    @property
    def knob(self) -> str:
        """The field whose value it is."""
        return self.largest or self.smallest or ""

    @model_validator(mode="after")
    def _one_end(self) -> KnobMetric:
        if (self.largest is None) == (self.smallest is None):
            raise ValueError("one of largest and smallest is expected, with the name of a field")
        return self


METRIC_FORMS = ("a column name", "a table metric", "a knob metric")  # not words that a spec can hold


def _metric_form(given: Any) -> str | None:
    if isinstance(given, str):
        return METRIC_FORMS[0]
    if isinstance(given, TableMetric) or (isinstance(given, dict) and {"table", "column"} & set(given)):
        return METRIC_FORMS[1]
    if isinstance(given, KnobMetric) or (isinstance(given, dict) and {"largest", "smallest", "such_that"} & set(given)):
        return METRIC_FORMS[2]
    return None


ClaimMetric = Annotated[
    Annotated[str, Tag(METRIC_FORMS[0])]
    | Annotated[TableMetric, Tag(METRIC_FORMS[1])]
    | Annotated[KnobMetric, Tag(METRIC_FORMS[2])],
    Discriminator(
        _metric_form,
        custom_error_type="metric",
        custom_error_message="a column of runs.csv, {table, column, …} or {largest: lr, such_that: …} is expected",
    ),
]
_MARGIN = re.compile(r"x([0-9]+(?:\.[0-9]+)?)|([0-9]+(?:\.[0-9]+)?) ?%")


def margin_of(within: float | str | None) -> float | None:
    """A margin on the scale of its metric; ValueError for what is no margin."""
    if within is None:
        return None
    number = math.nan
    if isinstance(within, str) and (match := _MARGIN.fullmatch(within)):
        number = math.log(float(match[1]) if match[1] else 1 + float(match[2]) / 100)
    elif isinstance(within, int | float) and not isinstance(within, bool):
        number = float(within)
    if not 0 < number < math.inf:
        raise ValueError("a number above 0, or 10% or x1.25 for metrics compared as ratios, is expected")
    return number


def _within(given: Any) -> Any:
    margin_of(given)
    return given


class Claim(Fields):
    """A statement made before the run: of a − b, given ``where``, once per value of ``each``."""

    claim: Annotated[str, Field(min_length=1)] = Field(description="the statement, in words")
    source: str | None = Field(None, description="who says so")
    where: PartialSetting = Field({}, description="fields that both sides have")
    each: Leaves = Field((), description="fields: the claim is judged once per value of each")
    a: Annotated[PartialSetting, Field(min_length=1)] = Field(description="fields of the one side")
    b: Annotated[PartialSetting, Field(min_length=1)] = Field(description="the same fields of the other")
    metric: ClaimMetric = Field(
        description="a column of runs.csv, {table, column, …}, or {largest: lr, such_that: learned}"
    )
    tune: Leaf | None = Field(None, description="the field of which each side takes its own best value")
    expect: Literal["less", "greater", "equal"] = Field(description="of a − b")
    within: Annotated[Any, AfterValidator(_within)] = Field(
        None, description="for equal: a number in the metric's units, or 10% or x1.25 where it is compared on logs"
    )
    why: Annotated[str, Field(min_length=1)] | None = Field(None, description="for equal: why this margin")

    @property
    def margin(self) -> float | None:
        """``within`` on the metric's scale: a number as it is, ``10%`` is ln 1.1, ``x1.25`` is ln 1.25."""
        return margin_of(self.within)

    @property
    def within_is_ratio(self) -> bool:
        """Whether ``within`` is written as a percentage or a factor, for metrics compared as ratios."""
        return isinstance(self.within, str)
