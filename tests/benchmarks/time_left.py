"""How right the estimates are: the time before a study, and the time left while it trains.

    python tests/benchmarks/time_left.py configs/quickstart.yaml configs/shift.yaml

For each config one line: the seconds that ``check`` estimates, the seconds that it took from the command to its last
line, and for each tenth of the work from .2 to .9 the time left that was shown over what was left to train; or,
where "under 2 s" was shown, what was left.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time


def seconds_of(text: str) -> float:
    """``12 s``, ``3:07 min`` or ``2:05 h``."""
    number, unit = text.split()
    parts = [float(part) for part in number.split(":")]
    if unit == "s":
        return parts[0]
    return 60 * (60 if unit == "h" else 1) * parts[0] + (60 if unit == "h" else 1) * parts[1]


def measure(config: str) -> str:
    """One line of the table."""
    words = [sys.executable, "-m", "bnexp"]
    with tempfile.TemporaryDirectory() as folder:
        place = ["--out", f"{folder}/run"]
        check = subprocess.run([*words, "check", config, "--json", *place], capture_output=True, text=True, check=True)
        estimated = json.loads(check.stdout)["estimated_seconds"]
        began = time.perf_counter()
        said, trained = [], began
        with subprocess.Popen(
            [*words, "train", config, *place], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as child:
            assert child.stderr is not None
            for line in child.stderr:
                now = time.perf_counter()
                found = re.search(r": (\d+) %, .*?(under )?([\d.:]+ (?:s|min|h)) left", line)
                trained = now if ": 100 %, " in line else trained  # then comes the comparison
                if found:
                    said.append((int(found[1]), now, 0.0 if found[2] else seconds_of(found[3])))
                end = now
    ratios = [
        f"{share} %: {left / (trained - now):.2f}" if left else f"{share} %: under 2 s, {trained - now:.1f} s"
        for share, now, left in said
        if 20 <= share < 90
    ]
    took = end - began
    return f"{config}: estimated {estimated:.1f} s, took {took:.1f} s ({estimated / took:.2f}); {', '.join(ratios)}"


if __name__ == "__main__":
    for config in sys.argv[1:]:
        print(measure(config), flush=True)
