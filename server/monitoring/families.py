"""Numbers on their way: those of several processes put together, and as text for Prometheus."""

import json
from collections.abc import Iterable, Sequence

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class _Ready(Collector):
    """Families that were collected already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """The families."""
        return self._families


def of_process(registry: Collector, process: str) -> list[Metric]:
    """A process's numbers, each labelled with the process.

    Labelled, not summed up: a sum would fall when one of them ends, which Prometheus would take
    for a counter that began anew.
    """
    families = []
    for family in registry.collect():
        labelled = Metric(family.name, family.documentation, family.type)
        for sample in family.samples:
            # When a series was made is another series for each, which nobody asks for.
            if not sample.name.endswith("_created"):
                labels = {**sample.labels, "process": process}
                labelled.add_sample(sample.name, labels, sample.value)
        families.append(labelled)
    return families


def pack(families: Iterable[Metric]) -> bytes:
    """The numbers for another process."""
    return json.dumps(
        [
            [
                one.name,
                one.documentation,
                one.type,
                [[s.name, s.labels, s.value] for s in one.samples],
            ]
            for one in families
        ]
    ).encode()


def unpack(packed: bytes) -> list[Metric]:
    """The numbers of another process; raises `ValueError` for anything else."""
    families = []
    try:
        for name, documentation, kind, samples in json.loads(packed):
            family = Metric(name, documentation, kind)
            for sample, labels, value in samples:
                family.add_sample(sample, labels, value)
            families.append(family)
    except (TypeError, ValueError) as error:
        raise ValueError("not a process's numbers") from error
    return families


def text(several: Sequence[Iterable[Metric]]) -> bytes:
    """All of them in Prometheus's format, each family once."""
    merged: dict[str, Metric] = {}
    for families in several:
        for family in families:
            known = merged.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            known.samples.extend(family.samples)
    return generate_latest(_Ready([family for family in merged.values() if family.samples]))
