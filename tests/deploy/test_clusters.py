"""cluster.yaml and cluster-local.yaml: what Ray makes of them, on a mocked AWS and by SSH on this machine."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
import yaml
from moto import mock_aws

from tests.helpers.late import RUNNING

if RUNNING:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.commands import _bootstrap_config

ROOT = Path(__file__).parents[2]


def _read(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return config


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a token, in which Ray puts keys."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return tmp_path


@pytest.fixture
def aws(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """cluster.yaml as `ray up` completes it, on a mocked AWS that has the profile which the file names."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        iam = boto3.client("iam", region_name="us-east-1")
        iam.create_role(RoleName="piledriver", AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName="piledriver")
        iam.add_role_to_instance_profile(InstanceProfileName="piledriver", RoleName="piledriver")
        yield _bootstrap_config(_read("cluster.yaml"), no_config_cache=True)


@pytest.mark.slow
def test_ray_brings_up_the_nodes_of_cluster_yaml(aws: dict[str, Any]) -> None:
    types = aws["available_node_types"]
    resources = {name: kind["resources"] for name, kind in types.items()}
    assert resources["head"] == {"CPU": 0}
    assert resources["corpus"]["CPU"] == 32 and "GPU" not in resources["corpus"]
    assert resources["gpu"]["GPU"] == 8 and resources["gpu"]["accelerator_type:H200"] == 1
    provider = AWSNodeProvider(aws["provider"], aws["cluster_name"])
    for name, kind in types.items():
        provider.create_node(kind["node_config"], {"ray-user-node-type": name, "ray-node-name": name}, 1)
    assert len(provider.non_terminated_nodes({})) == len(types)
    ec2 = boto3.client("ec2", region_name="us-east-1")
    instances = [it for of in ec2.describe_instances()["Reservations"] for it in of["Instances"]]
    assert {it["InstanceType"] for it in instances} == {"m7i.2xlarge", "m7i.8xlarge", "p5en.48xlarge"}
    for instance in instances:  # every node opens the storage
        assert instance["IamInstanceProfile"]["Arn"].endswith(":instance-profile/piledriver")
    # From outside by SSH alone.
    group = types["head"]["node_config"]["SecurityGroupIds"]
    [found] = ec2.describe_security_groups(GroupIds=group)["SecurityGroups"]
    open_to_all = [rule for rule in found["IpPermissions"] if rule["IpRanges"]]
    assert [rule["FromPort"] for rule in open_to_all] == [22]


@pytest.mark.slow
def test_what_nodes_of_cluster_yaml_install(aws: dict[str, Any]) -> None:
    cpu, gpu = aws["worker_setup_commands"], aws["available_node_types"]["gpu"]["worker_setup_commands"]
    assert aws["head_setup_commands"] == cpu
    [only] = [command for command in cpu if command not in gpu]
    assert "download.pytorch.org/whl/cpu" in only and [it for it in cpu if it != only] == gpu
    [pinned] = re.findall("^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    told = only.replace("~/piledriver", str(ROOT))
    chosen = re.search(r"\$\((.*)\)", told)
    assert chosen and subprocess.check_output(chosen[1], shell=True, text=True).strip() == pinned


@pytest.mark.slow
def test_every_command_of_a_cluster_is_bash(home: Path) -> None:
    for name in ("cluster.yaml", "cluster-local.yaml"):
        config = _read(name)
        for commands in (value for key, value in config.items() if key.endswith("_commands")):
            for command in commands:
                subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """An SSH server on this machine that lets this user in: its port and the key."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not os.access(program, os.X_OK) or not shutil.which("rsync") or not shutil.which("ssh"):
        pytest.skip("needs sshd, ssh and rsync")
    folder = tmp_path / "ssh"
    folder.mkdir()
    (tmp_path / "remote").mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized",
        "StrictModes": "no",
        "PidFile": folder / "pid",
        "UsePAM": "no",
        "SetEnv": f"HOME={tmp_path}/remote",
    }
    (folder / "config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    Path("/run/sshd").mkdir(exist_ok=True)  # where it is without privileges
    server = subprocess.Popen([program, "-D", "-f", folder / "config"], stderr=subprocess.DEVNULL)
    yield port, folder / "user"
    server.terminate()
    server.wait(10)


@pytest.mark.slow
def test_ray_up_by_ssh(sshd: tuple[int, Path], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of cluster-local.yaml, brought up on this machine: files, set-up, start; then it runs a job.

    The packages are those of this environment, and no `ray stop` ends clusters of others on this machine.
    """
    port, key = sshd
    (home / "bin").mkdir()
    ssh = home / "bin" / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -p {port} "$@"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with socket.create_server(("127.0.0.1", 0)) as free:
        gcs = free.getsockname()[1]
    config = _read("cluster-local.yaml")
    config["cluster_name"] = f"test-{gcs}"
    config["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": []}
    config["auth"] = {"ssh_user": getpass.getuser(), "ssh_private_key": str(key)}
    config["setup_commands"][0] = f"mkdir -p ~/env && ln -sfn {Path(sys.executable).parent} ~/env/bin"
    [start] = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--port=6379" in start
    with tempfile.TemporaryDirectory(prefix="up", ignore_cleanup_errors=True) as ray_folder:
        mine = f"--port={gcs} --include-dashboard=false --num-cpus=3 --temp-dir={ray_folder}"
        config["head_start_ray_commands"] = [start.replace("--port=6379", mine)]
        (home / "cluster.yaml").write_text(yaml.safe_dump(config))
        ray = str(Path(sys.executable).parent / "ray")
        try:
            command = [
                ray,
                "up",
                "--yes",
                "--no-config-cache",
                "--disable-usage-stats",
                str(home / "cluster.yaml"),
            ]
            up = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert up.returncode == 0, up.stdout + up.stderr
            remote = home / "remote"
            assert (remote / "piledriver" / "constraints.txt").is_file()
            assert (remote / ".ray" / "auth_token").read_text() == "0" * 64
            assert "RAY_AUTH_MODE=token" in (remote / ".bashrc").read_text()
            script = f"import ray; ray.init('127.0.0.1:{gcs}'); print(ray.cluster_resources()['CPU'])"
            told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
            assert told.stdout.strip() == "3.0", told.stderr
        finally:
            for process in psutil.process_iter(["cmdline"]):
                if any(ray_folder in argument for argument in process.info["cmdline"] or []):
                    process.kill()
