"""A second tracker on the same views: one line, and the first one goes on."""

import signal

from tests.cli.conftest import Terminal
from tests.cli.test_wrong_calls import one_line


def test_a_second_tracker_is_refused_and_the_first_goes_on(served: Terminal) -> None:
    first = served.serve("tracker")
    line = one_line(served.call("tracker"), "CH1020")
    assert f"pid={first.pid}" in line
    assert "CH1020" in one_line(served.call("run", "--tracker"), "CH1020")
    assert served.call("publish", "Placed", "--json", '{"order": "4"}').code == 0
    assert len(served.call("flows", "--json").json) == 4  # who only looks is welcome
    first.send_signal(signal.SIGKILL)
    first.wait()
    served.end(served.serve("tracker"))
