"""What each measure costs: time of the quickstart (10 epochs) with it, every epoch, over its time without any; medians.

    python tests/benchmarks/costs.py [--rounds 3]

In one process with one thread; with and without alternate, since the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools import ROOT, options_of, runs_of

from bnexp.data import Dataset, load_dataset
from bnexp.loading import load_spec
from bnexp.plan import make_plan
from bnexp.spec import DEFAULT_MEASURES, MEASURES, Spec
from bnexp.stacks import make_stacks
from bnexp.training import train
from bnexp.workers import one_thread


def seconds(spec: Spec, dataset: Dataset) -> float:
    """Of all runs on one worker."""
    began = time.perf_counter()
    runs = runs_of(spec, dataset)
    for stack in make_stacks(make_plan(runs), 1):
        for _ in train(stack, dataset, "cpu", options_of(spec)):
            pass
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    config = ROOT / "configs" / "quickstart.yaml"
    without = ["train.epochs=10", "claims=[]"]
    bare = load_spec(config, [*without, "measure=[]"])
    dataset = load_dataset(bare.settings[0].data)
    sets = {name: [name] for name in MEASURES if name != "predictions"}  # that is for one or two features
    sets = {"default": list(DEFAULT_MEASURES), **sets}
    with one_thread():
        seconds(bare, dataset)
        for name, measures in sets.items():
            options = ", ".join(f"{measure}: {{every: 1}}" for measure in measures)
            spec = load_spec(config, [*without, f"measure={{{options}}}"])
            seconds(spec, dataset)
            ratios = [seconds(spec, dataset) / seconds(bare, dataset) for _ in range(rounds)]
            print(f"{name:12} {statistics.median(ratios):6.2f} × the time without measures", flush=True)


if __name__ == "__main__":
    main()
