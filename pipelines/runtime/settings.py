"""Settings of MLflow and of the cluster."""

from pydantic import Field

from base.settings import Section


class TrackingConfig(Section):
    """MLflow."""

    uri: str | None = None
    """MLflow tracking URI; absent: sqlite in <storage>/mlflow.db."""
    experiment: str | None = None
    """Experiment name; absent: the configuration's name."""


class RayConfig(Section):
    """The cluster that commands run on."""

    address: str | None = None
    """Ray address; absent: the running cluster if there is one, else a local one for this command."""
    workers: int | None = Field(None, ge=1)
    """Tasks that run at a time in a corpus build; absent: as many as the cluster has CPUs, or GiB of memory
    where that is less, and can grow to."""
