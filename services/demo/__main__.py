"""`python -m services.demo`: orders through the shop, from an empty folder to the audit."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from choreo import App, ChoreoError
from services.demo.folder import FolderError, make_empty
from services.demo.generator import write
from services.demo.orders import BadLine, OrderPlaced, read
from services.demo.processes import PartError, Shop
from services.demo.report import example, report, show, status_of

FOLDER = Path(".choreo")
AT_ONCE = 32
LOOK_EVERY_S = 1.0
STALL_S = 120.0


class Deployment(StrEnum):
    """What the shop runs on."""

    EMBEDDED = "embedded"
    KAFKA = "kafka"


Flows = Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class Run:
    """One demo. `bad` counts lines that were no orders or no stock."""

    shop: Shop
    console: Console
    deployment: str = "embedded"
    bad: int = 0
    placed: list[OrderPlaced] = field(default_factory=list)
    fed: set[str] = field(default_factory=set)
    flows: Flows = ()
    duration_s: float = 0.0

    def stock(self, file: Path) -> None:
        """Load the opening stock."""
        done = self.shop.load_stock(file)
        if done.returncode not in {0, 1}:
            raise PartError((done.stderr or done.stdout).strip())
        self.bad += len(done.stderr.splitlines())
        self._say(f"{done.stderr}{done.stdout}".strip())

    def read(self, file: Path) -> None:
        """Read the orders; name the lines that are none."""
        for line in read(file):
            if isinstance(line, BadLine):
                self.bad += 1
                self._say(f"{file}:{line.line}: {line.field}: {line.reason}")
            else:
                self.placed.append(line)

    async def feed(self) -> None:
        """Publish every order and wait until all their flows have ended."""
        begun = monotonic()
        columns = (TextColumn("{task.description:>7}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self.console) as progress:
            fed, ended = (
                progress.add_task(name, total=len(self.placed)) for name in ("fed", "ended")
            )
            publishing = asyncio.create_task(self._publish(progress, fed))
            try:
                await self._watch(publishing, progress, ended)
            finally:
                publishing.cancel()
        self.duration_s = monotonic() - begun

    async def _publish(self, progress: Progress, bar: TaskID) -> None:
        folder = self.shop.folder if self.deployment == "embedded" else None
        async with App(folder=folder) as app:
            for start in range(0, len(self.placed), AT_ONCE):
                some = self.placed[start : start + AT_ONCE]
                calls = (app.publish(order, id=order.order_id) for order in some)
                self.fed.update(await asyncio.gather(*calls))
                progress.update(bar, completed=len(self.fed))

    async def _watch(self, publishing: asyncio.Task[None], progress: Progress, bar: TaskID) -> None:
        """Look at the flows until all that were fed have ended; raise PartError on a stall."""
        last, since = (-1, -1), monotonic()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if publishing.done():
                publishing.result()
            self.shop.check()
            flows: Flows = await asyncio.to_thread(self.shop.ask, "flows")
            self.flows = [flow for flow in flows if flow["flow"] in self.fed]
            ended = sum(status_of(flow) != "open" for flow in self.flows)
            progress.update(bar, completed=ended)
            if publishing.done() and ended == len(self.fed):
                return
            seen = (ended, sum(int(flow["steps"]) for flow in self.flows))
            if seen != last:
                last, since = seen, monotonic()
            elif monotonic() - since > STALL_S:
                raise PartError(self._stalled())

    def _stalled(self) -> str:
        still = [str(flow["flow"]) for flow in self.flows if status_of(flow) == "open"]
        return (
            f"nothing has happened for {STALL_S:g} s and {len(still)} flows are open: "
            f"{', '.join(still[:3])}; services: {self.shop.log('services')}"
        )

    def settle(self) -> None:
        """Let what follows the ends happen, then stop the services and look a last time."""
        begun, last = monotonic(), None
        while (seen := self.shop.ask("flows")) != last and monotonic() - begun < STALL_S:
            last = seen
            self.shop.check()
        self.shop.stop("services")
        self.flows = [flow for flow in self.shop.ask("flows") if flow["flow"] in self.fed]
        self.shop.close(but="servers")  # the audit asks them

    def conclude(self) -> bool:
        """Audit, print, write demo.json; tell whether all is well."""
        violations = self.shop.ask("audit")["violations"]
        made = report(self.flows, violations, self.duration_s, deployment=self.deployment)
        made.write(self.shop.folder / "demo.json")
        show(self.console, made, self.flows)
        if chosen := example(self.flows):
            self._show_one(chosen)
        if self.bad:
            self._say("1 bad line" if self.bad == 1 else f"{self.bad} bad lines")
        return made.good and not self.bad

    def _show_one(self, flow: str) -> None:
        """Say how to look at a flow; where it ends with the servers, show it."""
        if self.deployment == "embedded":
            here = self.shop.folder == FOLDER.absolute()
            where = "" if here else f" --folder {self.shop.folder}"
            self._say(f"look at one flow: {_command()} flow {flow}{where}")
        else:
            self._say(f"one of the flows, by choreo flow:\n{self.shop.show(flow)}")

    def _say(self, text: str) -> None:
        if text:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _command() -> str:
    """Give how this shell calls `choreo`: the one of this environment need not be on its path."""
    beside = Path(sys.executable).with_name("choreo")
    found = shutil.which("choreo")
    if found is not None and Path(found).resolve() == beside.resolve():
        return "choreo"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)


def _ended(*_: object) -> None:
    sys.exit(143)


def main(
    orders: Annotated[Path | None, typer.Option(help="JSON lines; else made up.")] = None,
    stock: Annotated[Path | None, typer.Option(help="sku,name,units; else made up.")] = None,
    seed: Annotated[int, typer.Option(help="Of orders, and of what goes wrong.")] = 1,
    count: Annotated[int, typer.Option(min=1, help="How many orders to make up.")] = 300,
    deployment: Annotated[
        Deployment, typer.Option(help="One file, or a Kafka and a PostgreSQL.")
    ] = Deployment.EMBEDDED,
    folder: Annotated[Path, typer.Option(help="Emptied first, if it is ours.")] = FOLDER,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Go on with what the folder holds.")] = False,
) -> None:
    """Run orders through the shop and see that nothing is lost."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ended)
    console = Console()
    folder = folder.absolute()
    shop = Shop(folder, {"SHOP_SEED": str(seed)})
    try:
        for file in filter(None, (orders, stock)):
            with file.open("rb"):  # before anything is deleted
                pass
        if keep:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            make_empty(folder)
        if orders is None or stock is None:
            made_orders, made_stock = write(folder, count, seed)
            orders, stock = orders or made_orders, stock or made_stock
        run = Run(shop, console, deployment)
        if deployment is Deployment.KAFKA:
            console.print("starting Kafka and PostgreSQL; for the first time it takes a minute")
            shop.start_servers()
            os.environ.update(shop.environment)  # for what is published from here
        run.read(orders)
        run.stock(stock.absolute())
        shop.start_provider(seed=seed)
        shop.start_services()
        shop.start_tracker()
        shop.wait_until_up("services", "tracker")
        asyncio.run(run.feed())
        run.settle()
        good = run.conclude()
    except (ChoreoError, FolderError, PartError, OSError) as exc:
        typer.echo(f"demo: {exc}", err=True)
        raise typer.Exit(1) from None
    finally:
        shop.close()
    raise typer.Exit(0 if good else 1)


if __name__ == "__main__":
    typer.run(main)
