"""Read a corpus version as batches of a PyTorch DataLoader.

    python examples/read_shards_with_pytorch.py [STORAGE]

A sample is a pure function of manifest, seed and number: workers and restarts do not change it.
"""

import sys

import torch
from build_from_python import build, configuration
from torch.utils.data import DataLoader, Dataset

from base import manifest
from base.errors import UserError
from model.loader import Corpus, Loader


class Samples(Dataset[torch.Tensor]):
    """The first samples of a corpus version, each of sequence_length + 1 tokens."""

    def __init__(self, manifest_url: str, sequence_length: int, count: int, seed: int = 0) -> None:
        """Open the version; shards are mapped when a sample needs them."""
        self.loader = Loader(Corpus.open(manifest_url), sequence_length=sequence_length, seed=seed)
        self.count = count

    def __len__(self) -> int:
        """The number of samples."""
        return self.count

    def __getitem__(self, number: int) -> torch.Tensor:
        """Sample `number`; its first tokens predict its last ones."""
        if not 0 <= number < self.count:
            raise IndexError(number)
        return torch.from_numpy(self.loader.sample(number))


def main(storage: str) -> None:
    """Print shapes of batches, and the documents that the first sample is made of."""
    try:
        version = manifest.require(configuration(storage).storage)
    except UserError:
        version = build(storage)
    samples = Samples(version.manifest_url, sequence_length=128, count=32)
    for batch in DataLoader(samples, batch_size=8):
        inputs, targets = batch[:, :-1], batch[:, 1:]
        print(f"batch: inputs {tuple(inputs.shape)}, targets {tuple(targets.shape)}, {batch.dtype}")
    for span in samples.loader.trace(0):
        print(f"sample 0: {span}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
