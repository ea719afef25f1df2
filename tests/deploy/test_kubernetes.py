"""deploy/: what Kubernetes and KubeRay would refuse, and what would not start."""

from __future__ import annotations

import copy
import gzip
import importlib.util
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.config import Config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted(DEPLOY.glob("*.yaml"))
CRDS = {"RayJob": "ray.io_rayjobs", "RayCronJob": "ray.io_raycronjobs"}


def _documents() -> list[tuple[str, dict[str, Any]]]:
    return [(path.name, doc) for path in MANIFESTS for doc in yaml.safe_load_all(path.read_text())]


def _jobs() -> list[dict[str, Any]]:
    """The specifications of all jobs."""
    specs = [(document["kind"], document["spec"]) for _, document in _documents() if "spec" in document]
    return [spec.get("jobTemplate", spec) for kind, spec in specs if kind in CRDS]


def _pods() -> list[dict[str, Any]]:
    """The specifications of all pods."""
    clusters = [job["rayClusterSpec"] for job in _jobs()]
    groups = [group for of in clusters for group in [of["headGroupSpec"], *of["workerGroupSpecs"]]]
    deployed = [document["spec"] for _, document in _documents() if document["kind"] == "Deployment"]
    return [group["template"]["spec"] for group in [*groups, *deployed]]


def _strict(schema: Any) -> Any:
    """The schema, for which a field that it does not name is an error."""
    if isinstance(schema, list):
        return [_strict(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _strict(value) for name, value in schema.items()}
    if found.pop("x-kubernetes-int-or-string", False):
        found.pop("type", None)
        found["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if isinstance(found.get("properties"), dict) and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def _schema(folder: Path, kind: str) -> dict[str, Any]:
    path = folder / "kuberay" / f"{CRDS[kind]}.yaml.gz"
    if not path.is_file():
        pytest.skip("needs ../shared/data/kuberay")
    documents = yaml.load_all(gzip.decompress(path.read_bytes()), yaml.CSafeLoader)
    [definition] = [document for document in documents if document]
    [served] = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema: dict[str, Any] = _strict(served["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


@pytest.mark.slow
@pytest.mark.parametrize("kind", CRDS)
def test_kuberay_takes_every_job(real_data: Path, kind: str) -> None:
    schema = _schema(real_data, kind)
    found = [document for _, document in _documents() if document["kind"] == kind]
    assert found
    for document in found:
        jsonschema.validate(document, schema)
        wrong = copy.deepcopy(document)
        job = wrong["spec"].get("jobTemplate", wrong["spec"])
        job["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 1
        with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
            jsonschema.validate(wrong, schema)


@pytest.mark.slow
def test_the_pods_of_deployments_are_pods(real_data: Path) -> None:
    schema = _schema(real_data, "RayJob")
    cluster = schema["properties"]["spec"]["properties"]["rayClusterSpec"]["properties"]
    template = cluster["headGroupSpec"]["properties"]["template"]
    template["properties"]["metadata"] = {"type": "object"}
    for _, document in _documents():
        if document["kind"] == "Deployment":
            jsonschema.validate(document["spec"]["template"], template)


def test_clusters_are_of_the_ray_that_is_installed_and_grow() -> None:
    [pinned] = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for job in _jobs():
        cluster = job["rayClusterSpec"]
        assert cluster["rayVersion"] == pinned
        assert cluster["authOptions"] == {"mode": "token"} and cluster["enableInTreeAutoscaling"]
        for group in cluster["workerGroupSpecs"]:
            assert group["minReplicas"] == 0 < group["maxReplicas"]
        module = job["entrypoint"].split()[2]
        assert job["entrypoint"].startswith("python -m jobs.") and importlib.util.find_spec(module)
    gpus = [pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for pod in _pods()]
    assert [count for count in gpus if count] == ["8"]


def test_every_pod_is_another_user_than_root_and_says_when_it_is_ready() -> None:
    [user] = re.findall(r"^USER (\d+)$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    for pod in _pods():
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == int(user)
        for container in pod["containers"]:
            assert container["readinessProbe"] and container["resources"]["limits"]["memory"]


def test_what_pods_refer_to_is_there() -> None:
    there = {(document["kind"], document["metadata"]["name"]): document for _, document in _documents()}
    for pod in _pods():
        for container in pod["containers"]:
            for source in container.get("envFrom", []):
                assert ("Secret", source["secretRef"]["name"]) in there
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
            else:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert ("PersistentVolumeClaim", claim) in there
    [settings] = there["ConfigMap", "piledriver-configs"]["data"].values()
    config = Config.model_validate(yaml.safe_load(settings))
    service = there["Service", "mlflow"]
    assert (
        config.tracking.uri == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    )
    for job in _jobs():
        path = job["entrypoint"].split("--config ")[1].split()[0]
        mounts = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        assert f"/piledriver/{path}" == f"{mounts[0]['mountPath']}/my.yaml"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The tracking server as it is deployed, with its files in a folder of the test."""
    [container] = [pod["containers"][0] for pod in _pods() if pod["containers"][0]["name"] == "mlflow"]
    command = [Path(sys.executable).parent / "mlflow", *container["args"][1:], "--workers=1", "--port=51843"]
    replaced = {"--host": "127.0.0.1", "--backend-store-uri": f"sqlite:///{tmp_path}/mlflow.db"}
    replaced |= {"--artifacts-destination": str(tmp_path / "artifacts")}
    command += [f"{name}={value}" for name, value in replaced.items()]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield "http://127.0.0.1:51843"
    process.terminate()
    process.wait(30)


def _status(url: str, host: str) -> int:
    """What a server answers a request for a host; 0 before it listens."""
    try:
        request = urllib.request.Request(url, headers={"Host": host})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.slow
def test_the_tracking_server_answers_by_the_name_of_its_service(server: str) -> None:
    [probe] = [pod["containers"][0]["readinessProbe"] for pod in _pods() if "ports" in pod["containers"][0]]
    [header] = probe["httpGet"]["httpHeaders"]
    url = server + probe["httpGet"]["path"]
    end = time.monotonic() + 120
    while _status(url, header["value"]) != 200 and time.monotonic() < end:
        time.sleep(1)
    experiments = f"{server}/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert _status(url, header["value"]) == 200
    assert _status(experiments, "mlflow:5000") == 200
    assert _status(experiments, "elsewhere.example.com") == 403
