"""The main job: whatever any publisher sends comes out where it belongs, judged as the contract says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pulsar
import pytest

from sequencer.broker import EmbeddedBroker
from tests.outcomes import Logs
from tests.publishing import Workload, publish
from tests.sequencer_process import SequencerProcess, init

ALL_WITHIN_S = 60.0
PUBLISHERS: list[tuple[int, dict[str, Any]]] = [
    (40_000, {"batching_enabled": True}),
    (4_000, {"batching_enabled": False}),
    (14_000, {"batching_enabled": True, "compression_type": pulsar.CompressionType.LZ4}),
    (14_000, {"batching_enabled": True, "compression_type": pulsar.CompressionType.ZSTD}),
    (14_000, {"batching_enabled": True, "compression_type": pulsar.CompressionType.ZLib}),
    (13_500, {"batching_enabled": True, "compression_type": pulsar.CompressionType.SNAPPY}),
    (500, {"batching_enabled": False, "compression_type": pulsar.CompressionType.LZ4}),
]


@pytest.mark.slow
def test_100_000_events_come_out_as_the_model_predicts(
    broker: EmbeddedBroker, namespace: str, client: Any, tmp_path: Path
) -> None:
    partitions = 4
    init(broker, namespace, partitions)
    workload = Workload(1, aggregates=1000, conflicts=0.05, lists=0.02)
    logs = Logs(client, broker, namespace, partitions)
    with SequencerProcess(broker, namespace, tmp_path) as process:
        for count, options in PUBLISHERS:
            publish(client, logs.topics.submitted, workload.take(count), **options)
        logs.read_submitted()
        logs.await_all(ALL_WITHIN_S, process.check_running)
        process.stop()
    report = logs.check(tmp_path)
    checked = {line.invariant.name: line.checked for line in report.lines}
    assert checked["I3"] == 100_000
    assert checked["I5"] == 1000
    assert sum(len(logs.rejected(n)) for n in range(partitions)) > 4_000
