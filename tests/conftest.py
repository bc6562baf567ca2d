"""One intra-op thread for every test, as in every worker; kernels for a GPU are interpreted where there is none.

Tests that try much say how much: ``counted("200 kills, …")`` lines stand at the end of pytest's output.
"""

import os

os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

import pytest
import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported

COUNTS = pytest.StashKey[list[str]]()


@pytest.fixture
def counted(request):
    """Keep a line for the end of the output."""
    return request.config.stash.setdefault(COUNTS, []).append


def pytest_terminal_summary(terminalreporter, config):
    """What was tried, and how often."""
    if lines := config.stash.get(COUNTS, []):
        terminalreporter.section("counts")
        for line in lines:
            terminalreporter.write_line(line)
