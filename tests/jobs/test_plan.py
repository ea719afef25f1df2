from pathlib import Path

import pytest

from base.errors import UserError
from jobs.plan import main

CONFIG = Path(__file__).parents[2] / "configs" / "stablelm-base-alpha-3b.yaml"


def test_a_recipe_in_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    main(str(CONFIG), workers=64, mfu=0.5, price=2.0)
    rows = {}
    for line in capsys.readouterr().out.splitlines():
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        if len(cells) == 2:
            rows[cells[0]] = cells[1]
    assert rows["parameters, unique"] == "3,637,321,728"
    assert rows["parameters, as GPT-NeoX counts them"] == "3,638,525,952"
    assert rows["MFU, as given"] == "50%" and rows["hardware FLOPs utilisation"] == "66%"
    assert rows["workers"] == "64" and rows["fits in 139 GiB"] == "yes"
    peak = float(rows["memory a worker, peak"].removesuffix(" GiB"))
    assert peak == max(
        float(value.removesuffix(" GiB"))
        for name, value in rows.items()
        if name.startswith("memory a worker")
    )
    days, cost = float(rows["days"]), float(rows["cost"].replace(",", ""))
    assert cost == pytest.approx(days * 24 * 64 * 2, rel=0.01)
    assert float(rows["seconds a step"]) * 180_000 / 86_400 == pytest.approx(days, rel=0.01)


def test_workers_for_a_number_of_days(capsys: pytest.CaptureFixture[str]) -> None:
    main(str(CONFIG), days=20.0, mfu=0.45)
    assert "│ workers                                 │                64 │" in capsys.readouterr().out
    with pytest.raises(UserError, match="give either --workers or --days"):
        main(str(CONFIG), workers=2, days=20.0)


def test_a_predicted_step(capsys: pytest.CaptureFixture[str]) -> None:
    main(str(CONFIG), workers=64)
    lines = capsys.readouterr().out.splitlines()
    parts = [float(line.split("│")[2].split()[0]) for line in lines if " s │" in line]
    seconds = next(float(line.split("│")[2]) for line in lines if "seconds a step" in line)
    assert len(parts) == 5 and sum(parts) == pytest.approx(seconds, abs=0.02)
    assert any("MFU, as predicted" in line for line in lines)
    with pytest.raises(UserError, match="--gpu v100: allowed are h200, h100, a100"):
        main(str(CONFIG), gpu="v100")
