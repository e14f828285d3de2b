"""Read the metrics of a server over HTTP, as Prometheus does."""

import time
import urllib.request
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from tests.server.processes import ServerProcess


class Samples:
    """The samples of one scrape."""

    def __init__(self, url: str) -> None:
        with urllib.request.urlopen(url, timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def __str__(self) -> str:
        return str(
            {f"{name}{dict(labels)}": value for (name, labels), value in self._values.items()}
        )

    def get(self, name: str, **labels: str) -> float:
        """Return a sample, or 0 if there is none."""
        return self._values.get((name, frozenset(labels.items())), 0.0)


def url_of(server: ServerProcess) -> str:
    return server.ready.split("; metrics on ")[1]


def until(url: str, holds: Callable[[Samples], bool]) -> Samples:
    """Scrape until a condition holds; the server takes snapshots in its own rhythm."""
    deadline = time.monotonic() + 120
    while not holds(samples := Samples(url)):
        assert time.monotonic() < deadline, f"the condition never held: {samples}"
        time.sleep(0.02)
    return samples
