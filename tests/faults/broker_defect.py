"""Tells a known defect of the broker: pending-ack replay that spins and lets nothing be answered (#26368)."""

from __future__ import annotations

import signal
import time

from sequencer.broker import EmbeddedBroker

PENDING_ACK_REPLAY = "MLPendingAckStore$PendingAckReplay.run"
THREAD_DUMP_TAKES_S = 1.0


def pending_ack_replay_spins(broker: EmbeddedBroker) -> bool:
    """Whether two thread dumps, seconds apart, show it: in a healthy broker a replay takes milliseconds."""
    return all(PENDING_ACK_REPLAY in _thread_dump(broker) for _ in range(2))


def _thread_dump(broker: EmbeddedBroker) -> str:
    """Java writes what every thread is doing to its output."""
    if broker._child is None:
        return ""
    output = broker.data_dir / "java.out"
    before = output.stat().st_size
    broker._child.process.send_signal(signal.SIGQUIT)
    time.sleep(THREAD_DUMP_TAKES_S)
    with output.open("rb") as written:
        written.seek(before)
        return written.read().decode(errors="replace")
