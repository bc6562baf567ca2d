"""Hostile specs and overrides, and a process of its own that hands them to the command line one after the other.

``python tests/hostile.py KIND SEED COUNT`` prints one JSON object: how many were asked for each exit code, the slowest,
the most memory, and every answer that is not one clear message.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bnexp.loading import TOP
from bnexp.spec import MEASURES, setting_fields

ROOT = Path(__file__).parents[1]

BASES = [
    *(
        path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "configs").glob("*.yaml"))
        if "mnist" not in path.name
    ),
    "data: {name: csv, path: rows.csv, target: y}\nmodel: {hidden: [4, 4]}\ntrain: {epochs: 1}\nseeds: 2\n",
    "data: {name: npz, path: rows.npz}\ntrain: {batch_size: full}\nseeds: [0, 3]\nmeasure: {shift: {steps: 5}}\n",
    """name: all
data: {name: teacher, samples: 64, inputs: 3, teacher_norm: gamma, teacher_hidden: [3, 2]}
model: {hidden: [[4, 4], [3]], activation: [tanh, relu], norm: [none, affine], placement: [pre, post], eps: 1e-3}
train: {epochs: 1, optimizer: [sgd, adam], adam_betas: [0.8, 0.9], schedule: step, step_every: 1, only: all}
seeds: 0..2
evaluate: [running, population]
measure: [activations, ics, rank]
variants: [{train.lr: [0.1, 1]}, {model: {ghost_size: 8}, train: {lr: 3}}]
claims:
  - {claim: less, a: {norm: affine}, b: {norm: none}, metric: fit_loss, expect: less, each: [placement]}
""",
]
PLAIN = r"""
0 1 2 8 16 0.5 0.1 1e-3 none full true false sgd adam tanh running drop all [4,4]
""".split()  # noqa: SIM905
SCALARS = r"""
1e-3 no off yes 010 0o17 0x1F 12:30 .nan .inf -.inf 1e999 -1e999 nan inf 1_000 +1 -0 0 -1 1 2 1.5 .5 1. true false
null ~ 99999999999999999999 -99999999999999999999 1e308 1e-320 2147483648 1000000000 100000 2001-01-01 '' "" '1'
"\u0000" "\x1b[31m" "=1+1" "@SUM(A1)" "[bold]x" "</script>" "../../x" "/etc/passwd" . .. - ? : , | > % ` @ ! & * <<
[] {} [[]] [[], []] {a: 1} [1, [2]] [true] [null] [1, 1] ["", ""] {norm: none} digits mnist csv npz xor bump teacher
spirals none full identity standardize running 0..3 3..0 0..999999999 999999999 1..1 each fit_loss train.lr
model.hidden learned x1.25 10% -5% 1e400%
""".split()  # noqa: SIM905
FIELDS = [f"{section}.{name}" for section, name, _ in setting_fields()]
OF_CLAIMS = r"""
claim source where each a b metric tune expect within why table column layer tap over largest smallest such_that
every
""".split()  # noqa: SIM905
KEYS = [*TOP, *(field.split(".")[1] for field in FIELDS), *MEASURES, *OF_CLAIMS, "train.lr", "model.norm"]
CHARACTERS = ["\x00", "\t", "\r", "\x85", "\u2028", "\ufeff", "\ud7ff", "😀", "\x1b[2J", "\x07"]
MARKS = """' " \\ # { } [ ] : - ? | > , &a *a !x <<: !!python/object:os.system %YAML ...""".split()  # noqa: SIM905
JUNK = [*CHARACTERS, *MARKS, ": ", "- ", "\n---\n", ", "]
SECTIONS = ["", "data.", "model.", "train.", "measure.shift.", "measure.ics.", "measure.", "variants.", "claims."]
PATHS = [*FIELDS, *TOP, "measure.ics.every", "measure.landscape.relative"]


class Answer(NamedTuple):
    """What the command line said to one input."""

    code: int
    seconds: float
    fault: str  # why it is no good answer; empty if it is one


def mutated(generator: random.Random) -> str:
    """A valid spec with one to four changes of its text: characters, words, lines, values, keys."""
    text = generator.choice(BASES)
    for _ in range(generator.choice([1, 1, 1, 2, 4])):
        text = generator.choice(CHANGES)(text, generator)
    return text


def _character(text: str, generator: random.Random) -> str:
    at = generator.randrange(len(text) + 1)
    return text[:at] + generator.choice(JUNK) + text[at + generator.randint(0, 2) :]


def _line(text: str, generator: random.Random) -> str:
    lines = text.split("\n")
    at, other = generator.randrange(len(lines)), generator.randrange(len(lines))
    how = generator.randrange(5)
    if how == 0:
        del lines[at]
    elif how == 1:
        lines.insert(at, lines[other])
    elif how == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif how == 3:
        lines[at] = " " * generator.randint(0, 6) + lines[at].lstrip()
    else:
        lines[at:] = lines[at:][: generator.randint(0, 3)]
    return "\n".join(lines)


def _value(text: str, generator: random.Random) -> str:
    """One value after a colon or a comma, replaced."""
    places = list(re.finditer(r"(?<=[:,\[] )[^,\[\]{}\n#]+|(?<=: )[\[{][^\n]*", text))
    return _replaced(text, places, SCALARS, generator)


def _key(text: str, generator: random.Random) -> str:
    return _replaced(text, list(re.finditer(r"[a-z_.]+(?=:)", text)), KEYS, generator)


def _pair(text: str, generator: random.Random) -> str:
    """One more field, at any depth."""
    lines = text.split("\n")
    pair = f"{generator.choice(KEYS)}: {generator.choice(SCALARS)}"
    lines.insert(generator.randrange(len(lines) + 1), " " * generator.choice([0, 0, 2, 2, 4]) + pair)
    return "\n".join(lines)


def _field(text: str, generator: random.Random) -> str:
    """A value for a field that has one, in its place: what passes the parser."""
    places = list(re.finditer(r"(?<=: )[^,\[\]{}\n#]+", text))
    return _replaced(text, places, [word for word in SCALARS if word[0] not in "|>%`@!&*?:-"], generator)


def _replaced(text: str, places: list[re.Match[str]], words: list[str], generator: random.Random) -> str:
    if not places:
        return text
    place = generator.choice(places)
    return text[: place.start()] + generator.choice(words) + text[place.end() :]


CHANGES: list[Callable[[str, random.Random], str]] = [_character, _line, _value, _value, _key, _pair, _field, _field]


def overrides(generator: random.Random) -> list[str]:
    """One to three overrides: real and wrong fields, trap values, torn text."""
    found = []
    for _ in range(generator.choice([1, 1, 1, 2, 3])):
        wrong = f"{generator.choice(SECTIONS)}{generator.choice(KEYS)}"
        path = generator.choice(PATHS) if generator.random() < 0.8 else wrong
        words = PLAIN if generator.random() < 0.6 else SCALARS
        values = generator.choices(words, k=generator.choice([1, 1, 1, 2, 3]))
        text = f"{path}={','.join(values)}"
        if generator.random() < 0.2:
            text = _character(text, generator)
        found.append(text.replace("\x00", "0"))  # no command line can hold one
    return found


# Whole documents that only resemble a spec


def grown(generator: random.Random) -> str:
    """A document of the spec's own words, put together by chance."""
    lines = [f"{key}: {_node(generator, 0)}" for key in generator.sample(KEYS[:15], generator.randint(0, 5))]
    if generator.random() < 0.7:
        lines = ["data: bump", *(line for line in lines if not line.startswith("data:"))]
    return "\n".join(lines)


def _node(generator: random.Random, depth: int) -> str:
    how = generator.random()
    if depth > 4 or how < 0.5:
        return generator.choice(SCALARS)
    inner = [_node(generator, depth + 1) for _ in range(generator.randint(0, 4))]
    if how < 0.7:
        return "[" + ", ".join(inner) + "]"
    return "{" + ", ".join(f"{generator.choice(KEYS)}: {node}" for node in inner) + "}"


# Valid words and numbers at the ends of what they can be, to be trained

TINY = "data: %\nmodel: {hidden: [3, 2], norm: [none, full]}\ntrain: {epochs: 2, batch_size: 8}\nseeds: 1\n"
DATA = [
    "bump",
    "{name: xor, samples: 16}",
    "{name: spirals, samples: 20}",
    "{name: teacher, samples: 16}",
    "{name: csv, path: rows.csv, target: y}",
    "{name: csv, path: rows.csv, target: x2}",
    "{name: npz, path: rows.npz}",
]
NUMBERS = r"""
0 1 2 3 -1 0.5 .25 0.999999 1e-5 1e-30 1e-320 1e30 -1e30 1e308 2147483647 2147483648 9223372036854775807
9223372036854775808 99999999999999999999999
""".split()  # noqa: SIM905
OF_NUMBERS = r"""
data.data_seed data.validation data.subset data.label_noise model.eps model.statistics_momentum model.gamma_init
model.beta_init model.weight_sd train.lr train.momentum train.adam_eps train.weight_decay train.norm_decay
train.step_every train.step_factor evaluate_every fit_every probe track learned_at
""".split()  # noqa: SIM905
EXTREMES = {
    **dict.fromkeys(OF_NUMBERS, NUMBERS),
    "data.samples": ["4", "5", "6", "8"],
    "model.hidden": ["[1]", "[1,1]", "[2,3,4]", "[5,1]"],
    "model.activation": ["sigmoid", "tanh", "relu", "linear"],
    "model.norm": ["none", "standardize", "full", "affine", "center", "scale", "gamma", "beta"],
    "model.placement": ["pre", "post"],
    "model.weight_init": ["linear", "glorot", "he", "gaussian"],
    "model.noise": ["santurkar"],
    "model.ghost_size": ["2", "4", "8"],
    "train.batch_size": ["1", "2", "4", "7", "8", "full"],
    "train.last_batch": ["keep"],
    "train.optimizer": ["sgd", "adam"],
    "train.nesterov": ["true"],
    "train.adam_betas": ["[0,0]", "[0.999999999999,0.99999999999999]", "[0.5,0.1]"],
    "train.schedule": ["step", "cosine"],
    "train.only": ["norm", "norm+output", "random"],
    "seeds": ["1", "2", "[2147483647]", "0..1"],
    "evaluate": ["running", "population", "batch"],
    "measure": [
        "[activations]",
        "[parameters, shift, ics, landscape, rank, gradients, identity]",
        "{shift: {steps: 1}, predictions: {}}",
        "{ics: {every: 99999999999999999999}}",
        "{landscape: {relative: 1e300}}",
        "{landscape: {relative: 0.1}}",
    ],
}


def extremes(generator: random.Random) -> list[str]:
    """Overrides that may be extreme, but are of the right kind."""
    fields = generator.sample(list(EXTREMES), generator.choice([1, 2, 2, 3, 4, 6]))
    return [f"{field}={generator.choice(EXTREMES[field])}" for field in fields]


# What YAML and large files can do


def traps() -> dict[str, bytes]:
    """One document per trap; what is repeated fills 256 KiB, and once more as many values as are allowed."""
    found = {name: text.encode("utf-8", "surrogatepass") for name, text in _SMALL.items()}
    found |= {
        "UTF-16": "data: bump".encode("utf-16"),
        "UTF-32": "data: bump".encode("utf-32"),
        "Latin-1": "question: \u00e9".encode("latin-1"),
        "NUL": b"data: bump\x00\n",
        "random bytes": random.Random(0).randbytes(10_000),
        "a zip": b"PK\x03\x04" + bytes(1000),
        "no end of line": b"data: bump",
        "carriage returns": b"data: bump\rseeds: 1\r",
    }
    for most in (MOST_BYTES, 19_000):
        for name, (start, unit, end) in _REPEATED.items():
            parts, size, count = [], 0, 0
            while size < MOST_BYTES - 2000 and count < most:
                parts.append(unit.replace("%", str(count + 1)))
                size, count = size + len(parts[-1]), count + 1
            found[f"{name}, {count} times"] = (start + "".join(parts) + end).encode()
    return found


MOST_BYTES = 256 * 1024
_LAUGHS = "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
)
_MANY, _SOME = (",".join(map(str, range(1, n))) for n in (2500, 500))
_SMALL = {
    "duplicate keys": "data: bump\nseeds: 1\nseeds: 2\n",
    "an anchor": "data: &x bump\n",
    "a merge key": "data: {<<: {name: bump}}\n",
    "a billion laughs": "a: &a [1, 1]\n" + _LAUGHS,
    "a merge bomb": "a: &a {x: 1}\n" + "".join(f"b{i}: {{<<: *a}}\n" for i in range(1000)),
    "a recursive alias": "&a [*a]\n",
    "a tag that would run": "data: !!python/object/apply:os.system ['touch planted']\n",
    "a tag that would read": "data: !!python/object/new:pathlib.Path [/etc/passwd]\n",
    "a tag of our own": "data: !include rows.csv\n",
    "a directive": "%YAML 1.1\n---\ndata: bump\n",
    "two documents": "data: bump\n---\ndata: bump\n",
    "nested deeply": "data: " + "[" * 300 + "]" * 300 + "\n",
    "a sexagesimal": "data: bump\nseeds: 12:30\n",
    "an octal": "data: bump\nseeds: 010\n",
    "no is text": "data: bump\nmodel: {norm: no}\n",
    "a float": "data: bump\ntrain: {lr: 1e-3}\nseeds: 1\n",
    "NaN": "data: bump\ntrain: {lr: .nan}\n",
    "infinite": "data: bump\ntrain: {lr: .inf}\n",
    "a huge integer": "data: bump\ntrain: {epochs: " + "9" * 5000 + "}\n",
    "a large integer": "data: bump\nseeds: 1\ntrain: {epochs: " + "9" * 300 + "}\nprobe: " + "9" * 300 + "\n",
    "a date": "name: 2001-01-01\ndata: bump\nseeds: 1\n",
    "a complex key": "? [a, b]\n: 1\n",
    "an empty key": "'': 1\n",
    "a key of no text": "null: 1\n1: 2\ntrue: 3\n",
    "a surrogate": 'question: "\ud800"\ndata: bump\n',
    "an escaped surrogate": 'question: "\\ud800"\ndata: bump\n',
    "an escape sequence": 'question: "\\e]0;owned\\a"\ndata: bump\n',
    "a text like a formula": 'name: "=1+1"\ndata: bump\n',
    "a way out": "name: ../../planted\ndata: bump\n",
    "an absolute name": "name: /tmp/planted\ndata: bump\n",
    "a device's name": "name: con\ndata: bump\n",
    "nothing": "",
    "comments alone": "# nothing\n",
    "a list": "- 1\n",
    "a scalar": "42\n",
    "a tab": "data:\n\tname: bump\n",
    "many runs": "data: bump\nseeds: 1000000\n",
    "a hundred thousand runs": "data: bump\nseeds: 100000\n",
    "a product of axes": "data: bump\nmodel: {eps: [%s]}\ntrain: {lr: [%s]}\n"
    % ((",".join(f"{i}e-5" for i in range(999)),) * 2),
    "most settings": "data: bump\ntrain: {{lr: [{}]}}\n".format(",".join(map(str, range(1, 5_001)))),
    "many rows": "data: {name: blobs, samples: 1000000000}\n",
    "most rows": "data: {name: blobs, samples: 1048576}\nseeds: 1\n",
    "many inputs": "data: {name: teacher, inputs: 1000000000}\n",
    "a wide teacher": "data: {name: teacher, teacher_hidden: [100000, 100000]}\n",
    "many data sets": "data: {{name: digits, data_seed: [{}]}}\nseeds: 1\n".format(",".join(map(str, range(5000)))),
    "most data sets": "data: {{name: digits, data_seed: [{}]}}\nseeds: 1\n".format(",".join(map(str, range(100)))),
    "a huge network": "data: bump\nmodel: {hidden: [1000000000, 1000000000]}\nseeds: 1\n",
    "a long name": "name: " + "a" * 200_000,
    "a long question": "data: bump\nseeds: 1\nquestion: " + "a" * 200_000,
    "a long number": "data: bump\nseeds: " + "1" * 200_000,
    "a long key": "a" * 200_000 + ": 1",
    "a long word": "data: bump\nmodel: {norm: " + "full" * 50_000 + "}",
    "too large": "#" * 300_000,
    "one claim of many questions": f"data: bump\nmodel: {{norm: [full, none]}}\ntrain: {{lr: [{_MANY}]}}\nclaims:\n"
    + "- {claim: a, each: [lr], a: {norm: full}, b: {norm: none}, metric: fit_loss, expect: less}\n",
    "many claims of many questions": f"data: bump\nmodel: {{norm: [full, none]}}\ntrain: {{lr: [{_MANY}]}}\nclaims:\n"
    + "- {claim: a, each: [lr], a: {norm: full}, b: {norm: none}, metric: fit_loss, expect: less}\n" * 50,
    "many tuned claims": f"data: bump\nmodel: {{norm: [full, none]}}\ntrain: {{lr: [{_SOME}]}}\nclaims:\n"
    + "- {claim: a, tune: lr, a: {norm: full}, b: {norm: none}, metric: fit_loss, expect: less}\n" * 900,
    "a path that is long": "data: {name: csv, target: y, path: " + "x/" * 5000 + "}",
    "a path with a null": 'data: {name: csv, target: y, path: "a\\0b"}',
    "a path that is a folder": "data: {name: csv, target: y, path: .}",
    "a path that never ends": "data: {name: csv, target: y, path: /dev/zero}",
    "a path that waits": "data: {name: csv, target: y, path: fifo}",
    "a path to a device": "data: {name: npz, path: /dev/zero}",
    "images that wait": "data: {name: mnist, path: fifo}",
}
_RUN = "data: bump\nseeds: 1\n"
_CLAIM = "- {claim: a, a: {norm: full}, b: {norm: none}, metric: fit_loss, expect: less}\n"
_REPEATED = {  # the start, what is repeated with % for a number, the end
    "brackets": ("", "[", ""),
    "braces": ("", "{a: ", ""),
    "dashes": ("", "- ", ""),
    "question marks": ("", "? ", ""),
    "colons": ("", "a:", ""),
    "anchors": ("a: [", "&a% 1,", "]"),
    "documents": ("", "---\n", ""),
    "duplicates": (_RUN, "seeds: 1\n", ""),
    "empty lines": (_RUN, "\n", ""),
    "quotes": (_RUN + 'question: "', "\\\\", '"'),
    "unknown keys": ("", "k%: 1\n", ""),
    "keys that are nearly known": ("", "seeds%: 1\n", ""),
    "unknown keys of a section": (_RUN + "train:\n", " lr%: 1\n", ""),
    "values of an axis": (_RUN + "train: {lr: [", "%,", "]}"),
    "equal values of an axis": (_RUN + "train: {lr: [", "1,", "]}"),
    "wrong values of an axis": (_RUN + "train: {lr: [", "a,", "]}"),
    "seeds": ("data: bump\nseeds: [", "%,", "]"),
    "layers": (_RUN + "model: {hidden: [", "1,", "]}"),
    "architectures": (_RUN + "model: {hidden: [", "[%],", "]}"),
    "a teacher's layers": ("data: {name: teacher, teacher_hidden: [", "1,", "1]}"),
    "variants": (_RUN + "variants:\n", "- train.lr: %\n", ""),
    "equal variants": (_RUN + "variants:\n", "- train.lr: 1\n", ""),
    "wrong variants": (_RUN + "variants:\n", "- x%\n", ""),
    "unknown fields of variants": (_RUN + "variants:\n", "- trian.lr: %\n", ""),
    "claims": (_RUN + "model: {norm: [full, none]}\nclaims:\n", _CLAIM, ""),
    "claims about nothing": (_RUN + "claims:\n", _CLAIM, ""),
    "wrong claims": (_RUN + "claims:\n", "- x\n", ""),
    "fields of a claim": (
        _RUN + "claims: [{claim: a, each: [",
        "norm,",
        "], a: {}, b: {}, metric: fit_loss, expect: less}]",
    ),
    "measures": (_RUN + "measure: {", "ics%: {},", "}"),
    "listed measures": (_RUN + "measure: [", "ics%,", "]"),
    "statistics": (_RUN + "evaluate: [", "running,", "]"),
}


def write_data(folder: Path) -> None:
    """The files that some of the specs name."""
    import numpy as np

    rows = [f"{i},{i % 7},{'ab'[i % 2]}" for i in range(60)]
    (folder / "rows.csv").write_text("\n".join(["x1,x2,y", *rows, ""]), encoding="utf-8")
    np.savez(folder / "rows.npz", x=np.arange(120.0).reshape(60, 2), y=np.arange(60) % 3)
    os.mkfifo(folder / "fifo")


def ask(words: list[str], most_seconds: float = 2) -> Answer:
    """Give the command line these words, in this process; ``most_seconds`` of its time."""
    from bnexp.cli import app

    out, err = io.StringIO(), io.StringIO()
    began = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(words, standalone_mode=True)
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            return Answer(-1, time.process_time() - began, traceback.format_exc())
    seconds = time.process_time() - began
    return Answer(code, seconds, fault_of(code, out.getvalue(), err.getvalue(), seconds, most_seconds))


def fault_of(code: int, out: str, err: str, seconds: float, most_seconds: float = 2) -> str:
    """What is wrong with an answer."""
    if code not in (0, 2):
        return f"exit {code}: {err[-2000:]}"
    if "Traceback" in err + out:
        return err[-2000:]
    if code == 2 and ("error" not in err.lower() or out):
        return f"no message, or something on stdout: {out[:300]!r} {err[:300]!r}"
    if re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out + err):
        return f"a control character is printed: {out[:300]!r} {err[:300]!r}"
    return f"took {seconds:.1f} s" if seconds > most_seconds else ""


def inputs(kind: str, generator: random.Random, folder: Path) -> Iterator[list[str]]:
    """Words for the command line; without end but for the traps."""
    path = folder / "hostile.yaml"
    if kind == "traps":
        for content in traps().values():
            path.write_bytes(content)
            yield ["check", str(path)]
        yield from (["check", str(place)] for place in (folder, folder / "fifo", Path("/dev/zero"), folder / "none"))
        with path.open("wb") as stream:
            stream.truncate(100 * 2**20)
        yield ["check", str(path)]
        return
    while kind == "extremes":
        shutil.rmtree(folder / "out", ignore_errors=True)
        path.write_text(TINY.replace("%", generator.choice(DATA)), encoding="utf-8")
        yield ["train", str(path), *extremes(generator), "--out", "out", "--workers", "1"]
        if (folder / "out/meta.json").exists():
            yield ["compare", "out"]
            if generator.random() < 0.2:
                yield ["report", "out", "-o", "out/page.html"]
    while True:
        extra: list[str] = []
        if kind == "overrides":
            path.write_text(generator.choice(BASES), encoding="utf-8")
            extra = ["--", *overrides(generator)] if generator.random() < 0.5 else overrides(generator)
            extra = [word for word in extra if word == "--" or not word.startswith("-")]
        else:
            text = mutated(generator) if kind == "mutated" else grown(generator)
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
        yield [*(["check"] if generator.random() < 0.8 else ["train", "--dry-run"]), str(path), *extra]


def most_memory() -> int:
    """MB that this process has had at most; what rusage says includes the process it was forked from."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) // 1024


def main(kind: str, seed: int, count: int) -> None:
    """Ask ``count`` times, and print what came of it."""
    codes: Counter[int] = Counter()
    faults: list[dict[str, Any]] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        write_data(folder)
        before = set(folder.rglob("*")) | {folder / "out"}
        generator = random.Random(f"{kind} {seed}")
        source = inputs(kind, generator, folder)
        ask(["check", str(ROOT / "configs/quickstart.yaml")])  # imports are not counted
        for words in itertools.islice(source, count):
            answer = ask(words, math.inf if kind == "extremes" else 2)
            codes[answer.code] += 1
            slowest = max(slowest, answer.seconds)
            if answer.fault:
                spec = (folder / "hostile.yaml").read_bytes()[:5000].decode("utf-8", "replace")
                faults.append({"words": words, "spec": spec, "fault": answer.fault})
        shutil.rmtree(folder / "out", ignore_errors=True)
        created = sorted(str(path) for path in set(folder.rglob("*")) - before - {folder / "hostile.yaml"})
    print(
        json.dumps(
            {
                "codes": codes,
                "slowest_s": round(slowest, 2),
                "most_mb": most_memory(),
                "created": created,
                "faults": faults,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
