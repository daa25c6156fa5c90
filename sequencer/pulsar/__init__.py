"""An asyncio client of Apache Pulsar's binary protocol, transactions included."""
