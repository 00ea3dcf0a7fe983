"""`make bench`: measure, print ratios, keep the figures."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from bench.codec import codec_avro
from bench.figure import Figure, kept
from bench.growth import inbox_growth, rss_growth
from bench.hop import hop, hop2
from bench.hot import hot_keys
from bench.kafka_growth import inbox_growth as kafka_inbox_growth
from bench.kafka_growth import kafka_rss_growth
from bench.kafka_handler import kafka_handler
from bench.kafka_hop import kafka_hop
from bench.kafka_recovery import kafka_recovery
from bench.kafka_saga import kafka_saga5, kafka_saga5_tx
from bench.kafka_views import kafka_tracker, kafka_tracker_faust
from bench.saga import saga5, saga5_tx
from bench.store import postgres_steps
from bench.views import list_growth, tracker_events

__all__ = ["MEASURES", "main"]

MEASURES = {
    "saga5": saga5,
    "saga5_tx": saga5_tx,
    "hop": hop,
    "hop2": hop2,
    "rss_growth": rss_growth,
    "inbox_growth_sqlite": inbox_growth,
    "tracker_events": tracker_events,
    "list_growth": list_growth,
    "kafka_saga5": kafka_saga5,
    "kafka_saga5_tx": kafka_saga5_tx,
    "kafka_handler": kafka_handler,
    "kafka_hop": kafka_hop,
    "kafka_rss_growth": kafka_rss_growth,
    "inbox_growth": kafka_inbox_growth,
    "kafka_recovery_s": kafka_recovery,
    "kafka_tracker": kafka_tracker,
    "kafka_tracker_faust": kafka_tracker_faust,
    "hot_keys": hot_keys,
    "postgres_steps": postgres_steps,
    "codec_avro": codec_avro,
}
"""By the name of their first figure, or of what their figures have in common."""
WITH = {
    "step_cpu_us": "saga5",
    "hop_ms_p50": "hop",
    "hop_ms_p99": "hop",
    "hop2_ms_p50": "hop2",
    "hop2_ms_p99": "hop2",
    "tracker_bytes": "tracker_events",
    "kafka_tracker2": "kafka_tracker",
    "postgres_step_cpu_us": "postgres_steps",
    "kafka_handler_faststream": "kafka_handler",
    "kafka_hop_ms_p50": "kafka_hop",
    "kafka_hop_ms_p99": "kafka_hop",
}
"""Figures that are measured together with others."""


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", choices=sorted({*MEASURES, *WITH}), help="one measurement")
    only = parser.parse_args().only
    only = WITH.get(only, only)
    console = Console()
    figures: list[Figure] = []
    for name, measure in MEASURES.items():
        if only in (None, name):
            console.print(f"measuring {name} …", style="dim")
            figures += measure()
            kept(figures)
    table = Table("figure", "value", "baseline", "ratio", "about")
    for one in figures:
        ratio = "" if one.ratio is None else f"{one.ratio:.3f}"
        baseline = "" if one.baseline is None else f"{one.baseline:,.2f}"
        table.add_row(one.name, f"{one.value:,.2f} {one.unit}", baseline, ratio, one.about)
    console.print(table)
    console.print(f"kept in {kept(figures)}", style="dim")


if __name__ == "__main__":
    main()
