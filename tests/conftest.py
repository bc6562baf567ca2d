"""One intra-op thread for every test, as in every worker."""

import os

os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

import torch

torch.set_num_threads(1)
