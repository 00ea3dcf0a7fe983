"""The demo as its users run it: a process, a folder, an exit code."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from services.demo.generator import write
from services.demo.processes import ROOT
from tests.postgres.database import server

KEYS = {
    "deployment": str,
    "flows": int,
    "by_status": dict,
    "violations": list,
    "ledger_equal": bool,
    "retries": int,
    "compensations": int,
    "dead_letters": int,
    "duration_s": float,
}
ALL_KINDS = {
    "AnalyticsRecorded",
    "EmailSent",
    "EmailSkipped",
    "OrderAccepted",
    "OrderCancelled",
    "OrderCompleted",
    "OrderPlaced",
    "OrderRejected",
    "OrderShipped",
    "OutOfStock",
    "PaymentCaptured",
    "PaymentDeclined",
    "PaymentRefunded",
    "ShipmentFailed",
    "StockReleased",
    "StockReserved",
    "StockShipped",
}


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "CHOREO" not in name}
    return subprocess.run(
        [sys.executable, "-m", "services.demo", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(180)
def test_the_demo_goes_every_way_and_all_is_well(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = demo("--folder", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((folder / "demo.json").read_text())
    assert {name: type(value) for name, value in told.items()} == KEYS
    assert told["flows"] == 300 == sum(told["by_status"].values())
    assert set(told["by_status"]) == {"completed", "rejected", "cancelled", "open"}
    assert told["by_status"]["open"] == 0
    assert (told["violations"], told["ledger_equal"], told["dead_letters"]) == ([], True, 0)
    assert told["retries"] > 0
    assert told["compensations"] > 0
    for word in ("completed", "p99", "no violations", "choreo flow"):
        assert word in done.stdout
    with closing(sqlite3.connect(folder / "choreo.db")) as db:
        rows = db.execute("SELECT headers, value FROM log").fetchall()
    kinds = {json.loads(headers)["ce_type"].rsplit(".", 1)[-1] for headers, _ in rows}
    assert kinds >= ALL_KINDS
    said = "".join(value.decode() for _, value in rows)
    for reason in ("declined: insufficient funds", "not charged: ", "refused: ", "not sent: "):
        assert reason in said


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("kafka_server")  # where none can be had, this says so
def test_on_servers_it_is_the_same(tmp_path: Path) -> None:
    server()
    folder = tmp_path / "run"
    done = demo("--folder", str(folder), "--count", "30", "--deployment", "kafka")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((folder / "demo.json").read_text())
    assert {name: type(value) for name, value in told.items()} == KEYS
    assert told["deployment"] == "kafka"
    assert told["flows"] == 30
    assert told["by_status"]["open"] == 0
    assert (told["violations"], told["ledger_equal"], told["dead_letters"]) == ([], True, 0)
    assert not (folder / "choreo.db").exists()
    assert "OrderPlaced  app" in done.stdout
    again = demo("--folder", str(folder), "--count", "1")
    assert again.returncode == 0, "what it has left is known to be ours"
    assert json.loads((folder / "demo.json").read_text())["deployment"] == "embedded"


@pytest.mark.timeout(120)
def test_bad_lines_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    orders, stock = write(tmp_path, 20, seed=2)
    orders.write_text("{\n" + orders.read_text() + '{"order_id": "x"}\n')
    stock.write_text(stock.read_text() + "A-900,Ghost,many\n")
    folder = tmp_path / "run"
    done = demo("--folder", str(folder), "--orders", str(orders), "--stock", str(stock))
    assert done.returncode == 1
    said = done.stdout.replace("\n", " ")
    assert f"{orders}:1: line: " in said
    assert f"{orders}:22: customer_id: Field required" in said
    assert f"{stock}:42: units: 'many' is no whole number" in said
    assert "3 bad lines" in said
    told = json.loads((folder / "demo.json").read_text())
    assert told["flows"] == 20
    assert told["violations"] == []


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    done = demo("--folder", str(tmp_path))
    assert done.returncode == 1
    assert "thesis.txt" in done.stderr
    assert "Traceback" not in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("option", ["--orders", "--stock"])
def test_a_missing_file_is_one_line(tmp_path: Path, option: str) -> None:
    done = demo("--folder", str(tmp_path / "run"), option, str(tmp_path / "none"))
    assert done.returncode == 1
    assert "none" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seed", ["x", "1.5"])
def test_a_wrong_option_is_refused(tmp_path: Path, seed: str) -> None:
    assert demo("--folder", str(tmp_path / "run"), "--seed", seed).returncode == 2
    assert not (tmp_path / "run").exists()
