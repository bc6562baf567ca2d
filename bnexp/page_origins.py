"""What the page says of where its numbers come from: what varied, what was held fixed, and provenance. No HTML here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bnexp.layout import ALWAYS
from bnexp.results import Results
from bnexp.spec import SECTIONS, leaf, leaves, setting_fields, show

# --- settings ---------------------------------------------------------------------------------------------------------


def settings_table(results: Results) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """What varied and what was held fixed, as (field, values, meaning); fixed fields at their default are left out."""
    settings, said = results.spec.settings, {leaf(*place): info for *place, info in setting_fields()}
    varied, fixed = [], []
    for name, (section, attribute) in leaves().items():
        values = list(dict.fromkeys(show(getattr(getattr(setting, section), attribute)) for setting in settings))
        meaning = str(said[name].description or "")
        if len(values) > 1:
            varied.append((name, ", ".join(value or "none" for value in values), meaning))
        elif name in ALWAYS or values != [show(SECTIONS[section].model_fields[attribute].default)]:
            fixed.append((name, values[0], meaning))
    seeds = results.spec.seeds
    said_of_seeds = f"{len(seeds)} runs of each setting; one seed shares initial weights and minibatches"
    fixed.append(("seeds", _listed(seeds), said_of_seeds))
    return varied, fixed


def _listed(seeds: Sequence[int]) -> str:
    """``0 to 9``, or one by one where some are left out."""
    whole = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))


def edited_text(results: Results) -> str:
    """A warning where CSVs are not what training wrote; else nothing."""
    if not results.edited:
        return ""
    verb = "is" if len(results.edited) == 1 else "are"
    return (
        f"{', '.join(results.edited)} {verb} not as training wrote; all that follows is of what stands there now, "
        "and the train command of this study puts it right."
    )


# --- provenance -------------------------------------------------------------------------------------------------------


def provenance(results: Results) -> list[tuple[str, str]]:
    """Where the numbers come from, as (what, text); only what meta.json records."""
    meta = results.meta
    git, versions = _mapping(meta.get("git")), _mapping(meta.get("versions"))
    device = str(meta.get("device", ""))
    threads = meta.get("threads")
    rows = [
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("device", f"{device}, {threads} thread(s) per process" if device and threads else device),
        ("computed by", _computers(_list(meta.get("computed_by")))),
        ("again", _again(device, meta.get("exact_stack"), meta.get("stack_difference"))),
        ("seeds", ", ".join(map(str, results.spec.seeds))),
        *(
            (f"data {_mapping(one).get('name', '')}", f"sha256 {_mapping(one).get('sha256', '')}")
            for one in _list(meta.get("data"))
        ),
        (
            "git",
            f"{git.get('revision', '')}{', with uncommitted changes' if git.get('dirty') else ''}"
            if git.get("revision")
            else "",
        ),
        *(("trained", _session(_mapping(one))) for one in _list(meta.get("sessions"))),
        ("study", f"sha256 {meta['study_sha256']}" if "study_sha256" in meta else ""),
        ("question and claims", _since(_list(meta.get("claims_sha256")))),
    ]
    return [(what, text) for what, text in rows if text]


def _computers(kinds: Sequence[Any]) -> str:
    """How many shards were computed by what, where that differs."""
    told = []
    for kind in map(_mapping, kinds) if len(kinds) > 1 else ():
        what = ", ".join(f"{name} {value}" for name, value in kind.items() if name != "shards")
        told.append(f"{len(_list(kind.get('shards')))} shards by {what}")
    return "; ".join(told)


def _again(device: str, exact: object, difference: object) -> str:
    """What who trains it again may expect."""
    if not device:
        return ""
    elsewhere = "not promised elsewhere: rounding differs from machine to machine, and training amplifies it"
    if not device.startswith("cpu"):
        same = f"the same bytes with the same GPU model, torch and stack sizes; {_other_sizes(exact, difference)}"
        return same + elsewhere
    if exact is False:
        return f"a run differs in its last bits from the same run in another stack on this machine; {elsewhere}"
    return f"the same bytes on the same machine and versions, whatever is trained beside what; {elsewhere}"


def _other_sizes(exact: object, difference: object) -> str:
    """What a GPU made of two runs in the first stack and of the same two runs alone."""
    if exact is True:
        return "alone, two runs of the first stack had the same bits after three steps; "
    if isinstance(difference, float):
        return (
            "alone, two runs of the first stack differed after three steps, "
            f"by at most {difference:.1e} of the largest parameter of a layer; "
        )
    return ""


def _session(session: Mapping[str, Any]) -> str:
    parts = [
        str(session.get("ended", "")),
        f"{session['runs_trained']} runs" if "runs_trained" in session else "",
        f"{session['seconds']} s" if "seconds" in session else "",
        f"{session['workers']} worker(s)" if "workers" in session else "",
        str(session.get("command", "")),
    ]
    return ", ".join(part for part in parts if part)


def _since(changes: Sequence[Any]) -> str:
    times = [str(_mapping(change).get("since", "")) for change in changes]
    if len(times) < 2:
        return f"as of {times[0]}" if times else ""
    return f"first {times[0]}; changed {', '.join(times[1:])}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []
