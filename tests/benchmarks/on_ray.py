"""What the Ray executor costs over the local one: digits, 3 norms × 100 seeds × 30 epochs, Ray's own start apart.

    python tests/benchmarks/on_ray.py [--rounds 3]

Both by turns, each from a new process with two workers; seconds from when the folder is locked to the written CSVs, as
``--json`` tells them, and the ratio of each pair. The start of Ray and of its processes is in what the whole command
took, in brackets.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SPEC = """
name: three-hundred
data: digits
model: {hidden: [64, 64], norm: [none, standardize, full]}
train: {epochs: 30, lr: 1}
seeds: 100
"""


def seconds(folder: str, out: str, *words: str) -> tuple[float, float]:
    """Of one training, and of the whole command."""
    command = [sys.executable, "-m", "bnexp", "train", "spec.yaml", "--workers", "2", "--json", "--out", out, *words]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["training"]["seconds"]), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    ratios = []
    for index in range(parser.parse_args().rounds):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "spec.yaml").write_text(SPEC)
            local, locally = seconds(folder, "local")
            ray, on_ray = seconds(folder, "ray", "--executor", "ray", "--address", "local")
        ratios.append(ray / local)
        shown = f"local {local:.2f} s ({locally:.2f}), ray {ray:.2f} s ({on_ray:.2f}), {ratios[-1]:.3f} times"
        print(f"round {index + 1}: {shown}", flush=True)
    print(f"median {statistics.median(ratios):.3f} times")


if __name__ == "__main__":
    main()
