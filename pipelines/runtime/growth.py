"""What a cluster has and can grow to: nodes are asked for, and waited for while it starts some."""

import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator

from base.errors import UserError

log = logging.getLogger("piledriver.cluster")

PATIENCE = 30.0
"""Seconds after which a cluster that starts no node will start none."""
LOOK = 1.0
"""Seconds between looks at the cluster."""
AHEAD = 256
"""Tasks that wait beside as many as run, so that the autoscaler sees them and starts nodes for them."""
TASK_MEMORY = 2**30
"""Bytes of a node's memory for each task that runs, where a person sets no number of tasks."""

Bundle = dict[str, float]
"""What a worker needs of one node, by Ray's names of resources."""


class Room:
    """How many tasks may be with the cluster: a number that is set, else what it has and can grow to."""

    def __init__(self, workers: int | None) -> None:
        """`workers` is the number that is set."""
        self._workers = workers
        self._seen, self._until = 0, 0.0
        self._waits = False

    def __call__(self) -> int:
        """The number now. Raises UserError when the cluster has no CPU and starts no node."""
        if self._workers is not None:
            return self._workers
        if time.monotonic() >= self._until:
            self._seen, self._until = self._look(), time.monotonic() + LOOK
        return self._seen

    def _look(self) -> int:
        import ray

        resources = ray.cluster_resources()
        cpus = int(resources.get("CPU", 0))
        if not cpus and not self._waits:
            if not grows():
                raise UserError("the Ray cluster has no CPU and starts no nodes")
            log.warning("waits for nodes: none that is up has a CPU")
            self._waits = True
        tasks = int(resources.get("memory", 0) // TASK_MEMORY)
        return max(tasks, 1) if tasks < cpus else 2 * cpus + AHEAD


@contextlib.contextmanager
def asked(bundle: Bundle, count: int, least: int) -> Iterator[bool]:
    """Ask the cluster for nodes on which `count` workers have room, until the block ends.

    Within the block `least` of them have room; False if the cluster starts no nodes for them.
    """
    from ray.autoscaler.sdk import request_resources

    if not grows():
        yield fitting(bundle) >= least
        return
    try:
        yield _waited(bundle, count, least)
    finally:
        request_resources(bundles=[])


def named(bundle: Bundle) -> str:
    """What a worker needs, in words."""
    return " and ".join(f"{amount:g} {name}" for name, amount in bundle.items())


def fitting(bundle: Bundle) -> int:
    """How many such workers have room on the nodes that are up, whatever runs there."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(int(min(node.get(name, 0) // amount for name, amount in bundle.items())) for node in nodes)


def grows() -> bool:
    """Whether nodes of the cluster are started by an autoscaler."""
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    # Where none does, Ray names the type of each node after the node.
    types = _report().get("node_type_mapping") or {}
    return is_autoscaler_v2() or any(name != f"node_{node}" for node, name in types.items())


def _waited(bundle: Bundle, count: int, least: int) -> bool:
    """Wait for nodes while the cluster starts some; whether `least` workers have room then."""
    from ray.autoscaler.sdk import request_resources

    said, end = "", time.monotonic() + PATIENCE
    request_resources(bundles=[bundle] * count)
    while (room := fitting(bundle)) < least:
        if coming := _coming():
            end = time.monotonic() + PATIENCE
        elif time.monotonic() >= end:
            return False
        starts = ", ".join(f"{count} of {name}" for name, count in sorted(coming.items())) or "none yet"
        now = f"{room} of {least} workers of {named(bundle)} have room; nodes that start: {starts}"
        if now != said:
            log.warning("waits for nodes: %s", said := now)
        time.sleep(LOOK)
        # The latest request holds in a cluster, and Ray Data makes some too.
        request_resources(bundles=[bundle] * count)
    return True


def _coming() -> Counter[str]:
    """Nodes that are being started, by type."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    if is_autoscaler_v2():
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        coming = Counter(node.ray_node_type_name for node in status.pending_nodes)
        for launch in status.pending_launches:
            coming[launch.ray_node_type_name] += launch.count
        return coming
    report = _report()
    return Counter(report.get("pending_launches") or {}) + Counter(
        name for _, name, _ in report.get("pending_nodes") or []
    )


def _report() -> dict:
    """What the first version of Ray's autoscaler says of itself; nothing before it runs."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}")
    return status.get("autoscaler_report") or {}
