"""A server in a container, where there is an engine that runs one."""

from __future__ import annotations

import shutil
import subprocess

from choreo.testing.servers.program import Program

__all__ = ["Container", "docker"]


class Container(Program):
    """A container, named in its command by `--name`: what ends its client does not end it."""

    def kill(self) -> None:
        """Have the engine end it."""
        name = self._command[self._command.index("--name") + 1]
        subprocess.run(  # noqa: S603 - the engine's own command
            ["docker", "kill", name],  # noqa: S607 - found on the path, as by its users
            capture_output=True,
            check=False,
        )
        super().kill()


def docker() -> bool:
    """Tell whether there is an engine, and it answers."""
    if shutil.which("docker") is None:
        return False
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0  # noqa: S603
