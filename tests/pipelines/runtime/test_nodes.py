"""What is printed of a lost node."""

import pytest

from pipelines.runtime import nodes
from tests.helpers.late import RUNNING

if RUNNING:
    import ray._private.worker as worker


def test_a_lost_node_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(worker, "print_to_stdstream", lambda data, _: seen.append(data["lines"]))
    nodes.say_shortly()
    nodes.say_shortly()
    # As Ray 2.55 says it.
    dead = (
        "The node with node id: a9523241 and address: 192.0.2.2 and node name: a has been marked dead "
        "because the detector has missed too many heartbeats from it. This can happen when a (1)"
    )
    ended = (
        "Raylet is terminated. Termination is unexpected. Possible reasons include: (1) SIGKILL\n  log\n  log"
    )
    for line in (ended, dead, dead, ended, "2 Workers killed due to memory pressure"):
        worker.print_to_stdstream({"lines": [line], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert seen == [["2 Workers killed due to memory pressure"]]
    assert capsys.readouterr().err == "node 192.0.2.2 was lost; its tasks run again elsewhere\n"


def test_ray_still_prints_by_way_of_that_function() -> None:
    assert callable(worker.print_to_stdstream)
    assert "print_to_stdstream" in worker.listen_error_messages.__code__.co_names
