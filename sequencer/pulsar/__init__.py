"""An asyncio client of Apache Pulsar's binary protocol, transactions included.

It has what a single writer needs and no more: no pattern subscriptions, no schemas, no automatic reconnection. When a
connection dies, everything on it ends and says so, and the caller starts anew.

    client          PulsarClient: who serves a topic, one connection per broker, what can be opened on them
    producer, consumer, coordinator     what runs on a connection (ports: what a connection tells them)
    connection      the asyncio shell: sockets, timers, futures, back-pressure
    protocol        the core without input or output: bytes in, events out, bytes to send
    commands, events, frames, batches   what is said, what is heard, and how it looks on the wire
    transaction     the states of a transaction, as a table
    errors          everything that can go wrong, and what helps against it
    settings        addresses, credentials, limits of waiting
"""
