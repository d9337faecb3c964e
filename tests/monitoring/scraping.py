"""A scrape of /metrics, as Prometheus would do and read it."""

from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.service import Service


class Scrape:
    """All samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = list(text_string_to_metric_families(text))
        self.samples: list[Sample] = [s for family in self.families for s in family.samples]

    @property
    def names(self) -> set[str]:
        """The names of all samples."""
        return {sample.name for sample in self.samples}

    def values(self, name: str, **labels: Any) -> list[float]:
        """The values of a metric's samples that have these labels."""
        wanted = {key: str(value) for key, value in labels.items()}.items()
        return [s.value for s in self.samples if s.name == name and wanted <= s.labels.items()]

    def total(self, name: str, **labels: Any) -> float:
        """Their sum, 0 where there is none."""
        return sum(self.values(name, **labels))

    def labels(self, label: str) -> set[str]:
        """Every value of a label."""
        return {sample.labels[label] for sample in self.samples if label in sample.labels}


def ask(service: Service, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """A request on a connection of its own, with these headers; `_` in a name is a dash."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    # There is no TLS: loading the authorities' certificates would only take time.
    return httpx.request(method, service.url + path, headers=named, timeout=5, verify=False)


def scrape(service: Service) -> Scrape:
    """Ask for the metrics from this machine."""
    response = ask(service, "/metrics")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Scrape(response.text)
