"""Whatever is lost, late or sent twice: an append's answer is what the log says."""

from __future__ import annotations

from collections import deque
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from sequencer.client.answer import Attempts, is_in
from sequencer.client.lane import Lane
from sequencer.pulsar.frames import MessageId
from sequencer.reply import Reply


class Append:
    """What the appender keeps of an append, without the future."""

    size_bytes = 1
    events = 1

    def __init__(self, name: str, expected: int | None) -> None:
        self.name = name
        self.expected = expected
        self.attempts = Attempts()
        self.answer: Reply | None = None
        self.due_at_s = 0.0
        self.sent = 0


class World:
    """One aggregate, a broker, a sequencer and a client, with everything between them in the hands of chance."""

    def __init__(self, random: Random, expected: list[int | None]) -> None:
        self.random = random
        self.lane: Lane[Append] = Lane()
        self.appends = [Append(f"id-{n}", version) for n, version in enumerate(expected)]
        self.now_s = 0.0
        self.on_the_wire: deque[tuple[list[Append], list[int]]] = deque()  # sent, not yet stored
        self.receipts: deque[tuple[list[Append], list[int], int]] = deque()
        self.log: list[tuple[Append, str]] = []  # with the position
        self.entries = 0
        self.judged = 0
        self.tail = -1
        self.versions: dict[str, int] = {}  # of what was accepted
        self.replies: list[Reply] = []

    def step(self, what: str) -> None:
        getattr(self, what)()

    def call(self) -> None:
        for append in self.appends:
            if append.sent == 0 and append.answer is None:
                self.lane.add(append)
                return

    def send(self) -> None:
        batch = self.lane.next_batch(self.now_s)
        if batch:
            self.on_the_wire.append((batch, [append.attempts.begin() for append in batch]))

    def store(self) -> None:
        if self.on_the_wire:
            batch, attempts = self.on_the_wire.popleft()
            self.log.extend((append, str(MessageId(7, self.entries, 0, n))) for n, append in enumerate(batch))
            self.receipts.append((batch, attempts, self.entries))
            self.entries += 1

    def receive_receipt(self) -> None:
        if self.receipts:
            batch, attempts, entry = self.receipts.popleft()
            for n, (append, attempt) in enumerate(zip(batch, attempts, strict=True)):
                append.attempts.stored(attempt, MessageId(7, entry, 0, n))
                self.settle(append)

    def judge(self) -> None:
        if self.judged == len(self.log):
            return
        append, position = self.log[self.judged]
        self.judged += 1
        name, expected = append.name, append.expected
        if expected is not None and expected == self.tail:
            self.accept(name, position)
        elif name in self.versions:
            version = self.versions[name]
            self.replies.append(Reply(name, "duplicate", position, (version, version), version))
        elif expected is None:
            self.accept(name, position)
        else:
            self.replies.append(
                Reply(name, "rejected", position, reason="wrong_expected_version", current_version=self.tail)
            )

    def accept(self, name: str, position: str) -> None:
        assert name not in self.versions, "accepted twice"
        self.tail += 1
        self.versions[name] = self.tail
        self.replies.append(Reply(name, "accepted", position, (self.tail, self.tail), self.tail))

    def receive_reply(self) -> None:
        if self.replies:
            reply = self.replies.pop(self.random.randrange(len(self.replies)))
            for append in self.appends:
                if append.name == reply.id and append.answer is None:
                    append.attempts.replied(reply)
                    self.settle(append)

    def lose_reply(self) -> None:
        if self.replies:
            self.replies.pop(self.random.randrange(len(self.replies)))

    def wait(self) -> None:
        self.now_s += self.random.choice((0.5, 2.0, 10.0))
        self.lane.collect_overdue(self.now_s)

    def lose_connection(self) -> None:
        """What is on the wire arrives up to some point; no receipt of it ever comes, and no reply that is due."""
        for _ in range(self.random.randint(0, len(self.on_the_wire))):
            self.store()
        self.on_the_wire.clear()
        self.receipts.clear()
        self.replies.clear()
        self.lane.begin_anew()

    def settle(self, append: Append) -> None:
        if append.answer is None and append.attempts.answer is not None:
            append.answer = append.attempts.answer
            self.lane.discard(append)

    def finish(self) -> None:
        """From here on nothing is lost any more."""
        for append in self.appends:
            if append.sent == 0:
                self.lane.add(append)
        for _ in range(3):
            self.now_s += 100.0
            self.lane.collect_overdue(self.now_s)
            while self.lane.has_work:
                self.send()
            while self.on_the_wire:
                self.store()
            while self.receipts:
                self.receive_receipt()
            while self.judged < len(self.log):
                self.judge()
            while self.replies:
                self.receive_reply()


STEPS = {
    "call": 3,
    "send": 6,
    "store": 6,
    "receive_receipt": 6,
    "judge": 6,
    "receive_reply": 4,
    "lose_reply": 1,
    "wait": 3,
    "lose_connection": 1,
}
"""With how likely each is: most replies arrive, and many arrive late."""


def live(seed: int) -> World:
    """A world that has come to rest after many things went wrong in it."""
    random = Random(seed)
    world = World(random, [random.choice((None, -1, 0, 1, 2, 3, 4)) for _ in range(random.randint(4, 16))])
    for step in random.choices(list(STEPS), list(STEPS.values()), k=STEP_COUNT):
        world.step(step)
    world.finish()
    return world


STEP_COUNT = 150
SEEDS = st.integers(0, 2**32)


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_every_answer_agrees_with_the_log(seed: int) -> None:
    world = live(seed)
    for append in world.appends:
        assert append.answer is not None
        assert is_in(append.answer) == (append.name in world.versions)
        if is_in(append.answer):
            assert append.answer.versions == (world.versions[append.name],) * 2
    assert len(world.lane) == 0


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_first_copies_are_in_the_order_of_the_calls(seed: int) -> None:
    world = live(seed)
    first_copies = list(dict.fromkeys(append.name for append, _ in world.log))
    assert first_copies == [append.name for append in world.appends]
