"""Imported before DeepSpeed, which else looks for accelerators that are not there."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
