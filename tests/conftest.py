"""One torch thread in every test, or as many as OMP_NUM_THREADS says; results may depend on neither."""

import os

import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
