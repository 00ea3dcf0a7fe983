"""The reference is what the code says."""

import re
from collections.abc import Iterator
from pathlib import Path

from choreo import events
from docs import generate
from tests.docs.blocks import text_of
from tests.house.source import sources

DEAD = re.compile(r"[\"'](choreo-dead-[\w-]+)[\"']")


def headers_and_topics() -> Iterator[str]:
    """Name what the vocabulary has, and what dead letters add."""
    for name, value in vars(events).items():
        is_type = name.endswith("_TYPE") and name != "CONTENT_TYPE"
        if name.isupper() and isinstance(value, str) and not is_type:
            yield value
    for source in sources("choreo"):
        yield from DEAD.findall(source.text)


def test_the_reference_is_up_to_date() -> None:
    """`make docs` writes it anew."""
    old = generate.write(check=True)
    assert not old, f"make docs writes these anew: {old}"


def test_what_is_old_is_told_and_written(tmp_path: Path) -> None:
    everything = list(generate.generated())
    assert generate.write(tmp_path, check=True) == everything
    assert generate.write(tmp_path) == everything
    (tmp_path / everything[0]).write_text("another")
    assert generate.write(tmp_path, check=True) == everything[:1]


def test_every_header_and_topic_is_described() -> None:
    page = text_of("docs/reference/records.md")
    missing = sorted({one for one in headers_and_topics() if f"| `{one}` |" not in page})
    assert not missing
    known = set(headers_and_topics())
    told = re.findall(r"^\| `((?:ce_|choreo[.-])[\w.-]+)` \|", page, re.MULTILINE)
    assert not [one for one in told if one not in known]
