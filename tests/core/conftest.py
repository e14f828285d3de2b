"""One thread for all of the core's tests: their tensors are too small to share out."""

import torch

torch.set_num_threads(1)
