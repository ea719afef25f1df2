"""Distributions of measured columns: of the text's quality, or scores by models."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from pipelines.corpus.report import panels
from pipelines.corpus.report.parquet import MEASURED
from pipelines.corpus.text import quality


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """A histogram of each measured column."""

    documents: int
    """Documents that were looked at."""
    picture: Markup


def section(sample: pa.Table | None, thresholds: dict[str, list[quality.Limit]]) -> Measurements | None:
    """The distributions of a sample's measured columns, with thresholds by column."""
    columns = {} if sample is None else measured(sample)
    if sample is None or not columns:
        return None
    return Measurements(documents=sample.num_rows, picture=panels.distributions(columns, thresholds))


def measured(sample: pa.Table) -> dict[str, np.ndarray]:
    """The finite values of each measured column that has some."""
    if "n_control" in sample.column_names:
        sample = sample.append_column("q_control_fraction", pa.array(quality.control_fraction(sample)))
    columns = {}
    for name in sample.column_names:
        numeric = pa.types.is_floating(sample[name].type) or pa.types.is_integer(sample[name].type)
        if name.startswith(MEASURED) and numeric:
            values = sample[name].drop_null().to_numpy().astype(float)
            values = values[np.isfinite(values)]
            if len(values):
                columns[name] = values
    return columns
