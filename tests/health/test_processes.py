"""Health of real processes: through their start, their outages, and their end."""

import json
import resource
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from tests.health.conftest import Process

RUN = ("-m", "choreo", "run", "desk")
TRACK = ("-m", "choreo", "tracker")
FULL = 4096
SOME = 1 << 16  # enough to read by, too little to write a batch of these records
RECORDS = 5_000
LIMITED = f"""
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({SOME}, resource.RLIM_INFINITY))
sys.argv = ["choreo", "tracker"]
runpy.run_module("choreo", run_name="__main__")
"""


def test_a_start_that_is_not_finished(desk: Process) -> None:
    (desk.folder / "hold").touch()
    desk.start("desk.py")
    desk.wait(lambda: desk.ask("/livez")[0] == 200)
    assert desk.ask("/startupz")[0] == 503
    assert desk.codes() == ["CH9001"]
    (desk.folder / "hold").unlink()
    desk.wait(desk.ready)
    status, body = desk.ask("/startupz")
    assert status == 200
    assert json.loads(body)["services"] == ["desk"]
    assert json.loads(body)["partitions"]["desk"] > 0
    desk.publish()
    wanted = [b'choreo_handler="desk.answer"', b"\nmessaging_process_duration_seconds_bucket",
              b"\nchoreo_deliveries_in_flight", b"\nprocess_resident_memory_bytes"]  # fmt: skip
    desk.wait(lambda: all(one in desk.ask("/metrics")[1] for one in wanted))
    where = f"http://127.0.0.1:{desk.port}"
    assert desk.stop() == (
        0,
        f"running desk on .choreo/choreo.db, health on {where}; Ctrl-C ends it\n",
    )
    assert desk.ask("/livez")[0] == 0


def test_draining(desk: Process) -> None:
    desk.start(*RUN)
    desk.wait(desk.ready)
    desk.publish("wait")
    desk.wait((desk.folder / "begun").exists)
    assert desk.process is not None
    desk.process.send_signal(signal.SIGTERM)
    desk.wait(lambda: not desk.ready())
    assert desk.codes() == ["CH9002"]
    assert desk.ask("/livez")[0] == 200
    assert desk.ask("/startupz")[0] == 200
    (desk.folder / "go").touch()
    assert desk.ended()[0] == 0


def test_a_blocked_loop_does_not_live(desk: Process) -> None:
    desk.start(*RUN)
    desk.wait(desk.ready)
    desk.publish("block")
    desk.wait((desk.folder / "begun").exists)
    assert desk.ask("/livez", timeout_s=0.3)[0] == 0
    (desk.folder / "go").touch()
    desk.wait(lambda: desk.ask("/livez", timeout_s=0.3)[0] == 200)
    desk.wait(desk.ready)
    assert desk.stop()[0] == 0


def limit(desk: Process, size: int) -> None:
    assert desk.process is not None
    _, most = resource.prlimit(desk.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(desk.process.pid, resource.RLIMIT_FSIZE, (size, most))


def test_a_full_disk_shows_and_heals(desk: Process) -> None:
    desk.start(*RUN)
    desk.wait(desk.ready)
    limit(desk, FULL)
    desk.publish()
    desk.wait(lambda: not desk.ready())
    for _ in range(10):  # while it lasts, it is shown each time
        assert "CH4001" in desk.codes()
    assert desk.ask("/livez")[0] == 200
    limit(desk, resource.RLIM_INFINITY)
    desk.wait(desk.ready)
    assert desk.stop()[0] == 0


def test_a_store_that_is_held_by_somebody_shows_and_heals(desk: Process) -> None:
    desk.start(*RUN)
    desk.wait(desk.ready)
    with closing(sqlite3.connect(desk.folder / ".choreo" / "choreo.db")) as holder:
        holder.execute("BEGIN IMMEDIATE")
        desk.wait(lambda: desk.codes() and set(desk.codes()) <= {"CH9004", "CH4001"})
    desk.wait(desk.ready)
    assert desk.stop()[0] == 0


def test_a_file_that_is_gone(desk: Process) -> None:
    desk.start(*RUN)
    desk.wait(desk.ready)
    (desk.folder / ".choreo" / "choreo.db").unlink()
    desk.wait(lambda: not desk.ready())
    code, said = desk.ended()
    assert code == 1
    assert "error: CH4009" in said


def test_a_migration_that_is_not_there(desk: Process) -> None:
    (desk.folder / "m").mkdir()
    (desk.folder / "m" / "1.sql").write_text("CREATE TABLE desk_a (n INTEGER);")
    text = (desk.folder / "desk.py").read_text()
    (desk.folder / "desk.py").write_text(
        text.replace('Service("desk")', 'Service("desk", migrations="m")')
    )
    desk.start(*RUN)
    desk.wait(desk.ready)
    with closing(sqlite3.connect(desk.folder / ".choreo" / "choreo.db", timeout=10)) as db, db:
        db.execute("DELETE FROM migration")
    desk.wait(lambda: desk.codes() == ["CH9005"])


def test_a_tracker_that_is_behind(desk: Process) -> None:
    desk.start(*RUN)
    desk.wait(desk.ready)
    desk.publish()
    desk.wait((desk.folder / "begun").exists)
    desk.stop()
    desk.process = None
    desk.choreo("flows")  # makes the views: for that there is no room later
    log = desk.folder / ".choreo" / "choreo.db"
    with closing(sqlite3.connect(log, timeout=10)) as db, db:
        (headers, number) = db.execute(
            "SELECT headers, topic FROM log JOIN topic ON topic.id = topic"
            " WHERE name = 'desk.asked' LIMIT 1"
        ).fetchone()
        flow = json.loads(headers)["ce_correlationid"]
        texts = (headers.replace(flow, f"{n:08d}{flow[8:]}") for n in range(RECORDS))
        db.executemany(
            "INSERT INTO log (topic, partition, key, headers, value) VALUES (?, 0, 'x', ?, '{}')",
            ((number, text) for text in texts),
        )
    desk.start("-c", LIMITED)  # it stays behind until it has been seen there
    desk.wait(lambda: "CH9006" in desk.codes())
    assert set(desk.codes()) <= {"CH4001", "CH9006"}
    assert desk.ask("/livez")[0] == 200
    limit(desk, resource.RLIM_INFINITY)
    desk.wait(desk.ready)
    behind = json.loads(desk.ask("/readyz")[1])["tracker"]["behind_s"]
    assert 0 <= behind < 30
    assert desk.ask("/startupz")[0] == 200
    assert desk.stop()[0] == 0


def test_services_with_the_tracker_beside(desk: Process) -> None:
    desk.start(*RUN, "--tracker", "--health", str(desk.port), CHOREO_HEALTH="127.0.0.1:1")
    desk.wait(desk.ready)
    told = json.loads(desk.ask("/readyz")[1])
    assert told["services"] == ["desk"]
    assert told["tracker"]["behind_s"] < 30
    assert desk.stop()[0] == 0


@pytest.mark.parametrize("command", [RUN, TRACK, ("desk.py",)], ids=["run", "tracker", "alone"])
def test_an_address_that_is_none_is_told_in_one_line(
    desk: Process, command: tuple[str, ...]
) -> None:
    code, said = desk.start(*command, CHOREO_HEALTH="127.0.0.1:99999").ended()
    assert code == 1
    assert said.startswith("error: CH1014 ")
    assert len(said.splitlines()) == 1


def test_a_port_that_is_taken_is_told_in_one_line(desk: Process) -> None:
    other = Process(desk.folder, desk.port)
    try:
        desk.start(*RUN)
        desk.wait(desk.ready)
        code, said = other.start(*RUN).ended()
    finally:
        other.close()
    assert code == 1
    assert said.startswith("error: CH1050 ")
    assert len(said.splitlines()) == 1


def test_without_an_address_nothing_listens(desk: Process) -> None:
    desk.start(*RUN, CHOREO_HEALTH="")
    assert desk.process is not None
    assert desk.process.stdout is not None
    line = desk.process.stdout.readline()
    assert line.startswith("running desk")
    assert "health" not in line
    listening = subprocess.run(
        [sys.executable, "-c", f"import socket; socket.create_server(('127.0.0.1', {desk.port}))"],
        check=False,
    )
    assert listening.returncode == 0
    assert desk.stop()[0] == 0
