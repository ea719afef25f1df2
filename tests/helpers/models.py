"""Tiny models in Hugging Face's format, made in a moment, and executors that tell what they are asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from base import files
from model.config import ModelConfig
from pipelines.config import Config
from pipelines.inference.models import ModelFolder
from pipelines.runtime.executor import InProcess, OnDone
from tests.helpers.corpus import tokenizer_of

if TYPE_CHECKING:
    from model.neox import NeoX

VOCAB = 60
LENGTH = 32


class StoppedError(Exception):
    """What ends a command in the middle, in place of a signal."""


class Told:
    """A progress that keeps what it is told, and ends the command after some tasks."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.counts: list[tuple[int, int]] = []
        self.stop_after = stop_after

    def __call__(self, stage: str, done: int, total: int, documents: int = 0, size: int = 0, /) -> None:
        self.counts.append((done, total))
        if done == self.stop_after:
            raise StoppedError


class Asked(InProcess):
    """Runs tasks in this process, and keeps how many items and actors it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, int | None]] = []

    def map_actors(
        self,
        actor: type,
        arguments: dict[str, Any],
        items: list[Any],
        on_done: OnDone,
        workers: int | None = None,
    ) -> list[Any]:
        self.calls.append((len(items), workers))
        return super().map_actors(actor, arguments, items, on_done, workers)


def write_model(folder: Path, **changes: Any) -> tuple[NeoX, ModelFolder]:
    """A model with random weights and the folder it is exported to, with the tokenizer of write_corpus.

    changes: to its settings.
    """
    import torch

    from model.convert import export_hf
    from model.neox import NeoX

    settings = ModelConfig(hidden_size=16, num_layers=2, num_heads=2, max_sequence_length=LENGTH, **changes)
    model = NeoX(settings, VOCAB, end_of_document_id=0).eval()
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.dim() == 2:  # with biases of that size all rows would be the same
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    with torch.no_grad():
        model.embed_out.weight[0] *= 2  # some rows end
        # Ids of the padding would be the most probable ones.
        model.embed_out.weight[VOCAB:] = 10 * model.embed_out.weight[1]
    tokenizer = folder / "tokenizer.json"
    files.write_bytes(str(tokenizer), tokenizer_of(VOCAB))
    export_hf(model.state_dict(), settings, VOCAB, str(folder / "hf"), tokenizer=str(tokenizer))
    return model, ModelFolder(name="tiny", url=str(folder / "hf"), result=None)


def config_of(storage: Path, **sections: Any) -> Config:
    """A configuration whose MLflow is away, unless `tracking` is given."""
    content = {"name": "tiny", "storage": str(storage), "sources": [{"name": "a", "urls": ["unused"]}]}
    away = {"tracking": {"uri": "sqlite:////proc/none/mlflow.db"}}
    return Config.model_validate(content | away | sections)
