"""Apache Kafka's own jars, fetched once by Maven from where it gets everything."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from choreo.testing.servers.program import absent, cache_folder, locked

__all__ = ["KAFKA", "kafka_jars"]

KAFKA = "4.3.1"
LOG4J = "2.25.4"
FETCH_S = 540
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>choreo</groupId><artifactId>kafka</artifactId><version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId><version>{KAFKA}</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId>
      <artifactId>kafka-tools</artifactId><version>{KAFKA}</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId><version>{LOG4J}</version></dependency>
  </dependencies>
</project>
"""


def kafka_jars() -> Path:
    """Give the folder of jars; fetch them when they are not there, which takes a minute.

    Safe when several processes ask at once. Raises what `absent` makes without Java and Maven.
    """
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            how = "set CHOREO_TEST_KAFKA=host:port, or install Java 17 and Maven"
            raise absent("a Kafka broker", f"{program} is not installed; {how}")
    folder = cache_folder(f"kafka-{KAFKA}")
    jars = folder / "libs"
    with locked(folder):
        if not jars.exists():
            _fetch(folder, jars)
    return jars


def _fetch(folder: Path, jars: Path) -> None:
    (folder / "pom.xml").write_text(POM, encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=folder) as part:
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime"]
        fetched = subprocess.run(  # noqa: S603 - our own words
            ["mvn", "-q", "-B", *goal, f"-DoutputDirectory={part}/libs"],  # noqa: S607 - Maven is where PATH says
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=FETCH_S,
        )
        if fetched.returncode:
            why = fetched.stdout.strip() or fetched.stderr.strip()
            raise absent("a Kafka broker", f"Maven could not fetch its jars: {why[-800:]}")
        Path(part, "libs").rename(jars)
