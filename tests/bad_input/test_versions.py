"""Files that a newer choreo, or something else, wrote: refused, and left as they are."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import Terminal
from tests.cli.test_wrong_calls import one_line

NEWER = "PRAGMA user_version = 1000"


def write(path: Path, *statements: str) -> bytes:
    """Change a database behind choreo's back; give its bytes."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path.read_bytes()


@pytest.mark.parametrize("verb", [["run"], ["flows"], ["tracker"], ["publish", "Placed", "--json",
                                  '{"order": "9"}']])  # fmt: skip
def test_a_log_of_a_newer_version_is_refused(served: Terminal, verb: list[str]) -> None:
    path = served.folder / ".choreo" / "choreo.db"
    before = write(path, NEWER)
    line = one_line(served.call(*verb), "CH4005")
    assert "version 1000" in line
    assert "choreo.db" in line
    assert path.read_bytes() == before


def test_views_of_a_newer_version_are_refused_and_can_be_deleted(served: Terminal) -> None:
    path = served.folder / ".choreo" / "views.db"
    before = write(path, NEWER)
    for verb in ("flows", "tracker"):
        line = one_line(served.call(verb), "CH4005")
        assert "views.db" in line
        assert "delete the file" in line
    assert path.read_bytes() == before
    path.unlink()
    assert len(served.call("flows", "--json").json) == 3


def test_views_in_the_place_of_somebody_elses_database_are_refused(served: Terminal) -> None:
    path = served.folder / ".choreo" / "views.db"
    path.unlink()
    before = write(path, "CREATE TABLE fact (theirs)", "INSERT INTO fact VALUES ('dear')")
    assert "something else" in one_line(served.call("flows"), "CH4003")
    assert path.read_bytes() == before
