"""The embedded broker itself."""

from sequencer.broker import EmbeddedBroker


def test_namespace(broker: EmbeddedBroker, namespace: str) -> None:
    """First light."""
    assert namespace.startswith("public/test-")
    assert broker.service_url.startswith("pulsar://127.0.0.1:")
