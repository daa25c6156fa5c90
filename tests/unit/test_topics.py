"""Topic names, and what `init` refuses and repeats; against a small web server where the admin interface would be."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sequencer import topics as module
from sequencer.admin import Admin, AdminFailed
from sequencer.names import NamespaceInvalid, Topics, short_name
from sequencer.topics import (
    FOR_EVER_DAYS,
    NamespaceMissing,
    PartitionsFixed,
    PolicyNotVisible,
    TopicPlan,
    _create_replies_namespace,
    create_topics,
    is_primed,
    partitions_found,
    retention,
)

SHUTDOWN_POLL_S = 0.01

Answer = tuple[int, object] | tuple[int, object, dict[str, str]]


@dataclass
class Web:
    """A web server whose answers a test decides; it remembers what it was asked."""

    url: str = ""
    answer: Callable[[str, str], Answer] = lambda method, path: (404, {"reason": "nothing here"})
    asked: list[tuple[str, str]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)


@pytest.fixture
def web() -> Iterator[Web]:
    seen = Web()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            seen.asked.append((self.command, self.path))
            seen.authorizations.append(self.headers.get("Authorization"))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body, *headers = seen.answer(self.command, self.path)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers[0] if headers else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = _any

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(SHUTDOWN_POLL_S,), daemon=True).start()
    seen.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield seen
    server.shutdown()
    server.server_close()


# --- Names ---


def test_names() -> None:
    topics = Topics("shop/orders")
    assert topics.submitted == "persistent://shop/orders/submitted_events"
    assert topics.events == "persistent://shop/orders/events"
    assert topics.rejected == "persistent://shop/orders/rejected_events"
    assert topics.owners == "persistent://shop/orders/sequencer_owners"
    assert topics.all == (topics.submitted, topics.events, topics.rejected, topics.owners)
    assert topics.submitted_partition(0) == "persistent://shop/orders/submitted_events-partition-0"
    assert topics.events_partition(12) == "persistent://shop/orders/events-partition-12"
    assert topics.rejected_partition(1) == "persistent://shop/orders/rejected_events-partition-1"
    assert topics.owners_partition(3) == "persistent://shop/orders/sequencer_owners-partition-3"
    assert short_name(topics.owners_partition(3)) == "sequencer_owners-partition-3"


def test_names_of_reply_topics() -> None:
    topics = Topics("shop/orders")
    assert topics.replies_namespace == "shop/orders-replies"
    assert topics.reply_topic("till-7") == "non-persistent://shop/orders-replies/till-7"
    for name in ("a", "0", "till-7", "a" * 128, "A_b.C-9", "partition-7", "a-partition-", "a-partition-x"):
        assert topics.takes_replies(topics.reply_topic(name)), name


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "till-7",
        "orders-replies/till-7",
        "shop/orders-replies/till-7",
        "persistent://shop/orders-replies/till-7",
        "non-persistent://shop/orders/till-7",
        "non-persistent://shop/orders-replies",
        "non-persistent://shop/orders-replies/",
        "non-persistent://shop/orders-replies2/till-7",
        "non-persistent://shop/other-replies/till-7",
        "non-persistent://other/orders-replies/till-7",
        "non-persistent://shop/cluster/orders-replies/till-7",
        "non-persistent://shop/orders-replies/../till-7",
        "non-persistent://shop/orders-replies//till-7",
        "non-persistent://shop/orders-replies/till/7",
        "non-persistent://shop/orders-replies/till%2F7",
        "non-persistent://shop/orders-replies/till 7",
        "non-persistent://shop/orders-replies/till\n",
        "non-persistent://shop/orders-replies/till\x007",
        "non-persistent://shop/orders-replies/kasse-\u00fc",
        "non-persistent://shop/orders-replies/\u0663",  # a digit, but not ASCII
        "non-persistent://shop/orders-replies/till-partition-0",
        "non-persistent://shop/orders-replies/-partition-12",
        "non-persistent://shop/orders-replies/__change_events",
        "NON-PERSISTENT://shop/orders-replies/till-7",
        " non-persistent://shop/orders-replies/till-7",
        "non-persistent://shop/orders-replies/" + "a" * 129,
        "non-persistent://shop/orders-replies/" + "a" * 5_000_000,
        b"non-persistent://shop/orders-replies/till-7",
        b"\xff",
        None,
    ],
    ids=lambda topic: repr(topic)[:60],
)
def test_what_is_no_reply_topic(topic: object) -> None:
    assert not Topics("shop/orders").takes_replies(topic)


@pytest.mark.parametrize("namespace", ["public/default", "a/b", "my-tenant/v1.0:x=y_z"])
def test_good_namespaces(namespace: str) -> None:
    assert Topics(namespace).namespace == namespace


@pytest.mark.parametrize(
    "namespace",
    [
        "",
        "public",
        "public/",
        "/default",
        "a/b/c",
        "a b/c",
        "ü/c",
        "../c",
        "a/..",
        "a/b?x",
        "a/b\n",
        "persistent://a/b",
    ],
)
def test_bad_namespaces(namespace: str) -> None:
    with pytest.raises(NamespaceInvalid, match="expected tenant/namespace"):
        Topics(namespace)


def test_retention_in_days() -> None:
    assert retention(7) == {"retentionTimeInMinutes": 7 * 24 * 60, "retentionSizeInMB": -1}
    assert retention(FOR_EVER_DAYS) == {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1}


# --- What init refuses, before it changes anything ---


def partitions_are(counts: dict[str, int]) -> Callable[[str, str], Answer]:
    def answer(method: str, path: str) -> Answer:
        if path == "/admin/v2/namespaces/public/default":
            return 200, {}
        name = path.split("/")[-2]
        return (200, {"partitions": counts[name]}) if name in counts else (404, {"reason": "Topic not found"})

    return answer


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"submitted_events": 2, "events": 2, "rejected_events": 2, "sequencer_owners": 2}, "events has 2 partitions"),
        ({"submitted_events": 3, "events": 4}, "events has 4 partitions"),
        ({"events": 1}, "events has 1 partition, but 3 were asked for"),
        ({"rejected_events": 0}, "rejected_events is not partitioned"),
    ],
)
def test_another_number_of_partitions_is_refused_before_anything_is_created(
    web: Web, counts: dict[str, int], told: str
) -> None:
    web.answer = partitions_are(counts)
    with Admin(web.url) as admin, pytest.raises(PartitionsFixed, match=told) as refusal:
        next(create_topics(admin, Topics(), TopicPlan(3)))
    assert "3 were asked for" in str(refusal.value)
    assert {method for method, _ in web.asked} == {"GET"}


def test_all_topics_that_disagree_are_named(web: Web) -> None:
    web.answer = partitions_are({"submitted_events": 3, "events": 4, "rejected_events": 5})
    with Admin(web.url) as admin, pytest.raises(PartitionsFixed) as refusal:
        next(create_topics(admin, Topics(), TopicPlan(3)))
    assert "submitted_events" not in str(refusal.value)
    assert "events has 4 partitions, rejected_events has 5 partitions" in str(refusal.value)


def test_a_missing_namespace_is_not_created(web: Web) -> None:
    with Admin(web.url) as admin, pytest.raises(NamespaceMissing, match="namespace public/default does not exist"):
        partitions_found(admin, Topics())


def test_a_policy_that_does_not_become_visible(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLICY_VISIBLE_WITHIN_S", 0.2)
    counts = dict.fromkeys(["submitted_events", "events", "rejected_events", "sequencer_owners"], 1)
    topics = Topics()

    def answer(method: str, path: str) -> Answer:
        if path.endswith("/retention"):
            return (204, b"") if method == "POST" else (200, {"retentionTimeInMinutes": 5, "retentionSizeInMB": 5})
        if path == "/admin/v2/persistent/public/default":
            return 200, [f"{topic}-partition-0" for topic in topics.all]
        return partitions_are(counts)(method, path)

    web.answer = answer
    with Admin(web.url) as admin, pytest.raises(PolicyNotVisible, match=r"submitted_events: retention is not visible"):
        list(create_topics(admin, topics, TopicPlan(1)))


@dataclass
class Namespaces:
    """Answers of an admin interface in which everything but the replies namespace is as it should be."""

    there: bool
    override: dict[str, object] | None = None
    somebody_else_is_faster: bool = False

    def __call__(self, method: str, path: str) -> Answer:
        match method, path:
            case "GET", "/admin/v2/namespaces/public/default-replies":
                return (200, {}) if self.there else (404, {"reason": "Namespace does not exist"})
            case "PUT", "/admin/v2/namespaces/public/default-replies":
                self.there = True
                return (409, {"reason": "Namespace already exists"}) if self.somebody_else_is_faster else (204, b"")
            case "GET", "/admin/v2/namespaces/public/default-replies/autoTopicCreation":
                return (204, b"") if self.override is None else (200, self.override)
            case "POST", "/admin/v2/namespaces/public/default-replies/autoTopicCreation":
                # As the broker writes it, which knows more of it than was set.
                made = {"allowAutoTopicCreation": True, "topicType": "non-partitioned", "defaultNumPartitions": None}
                self.override = made
                return 204, b""
        return 500, {"reason": f"unexpected: {method} {path}"}

    def steps(self, admin: Admin) -> list[tuple[str, bool]]:
        return [(step.what, step.changed) for step in _create_replies_namespace(admin, "public/default-replies")]


FORBIDDEN: dict[str, object] = {"allowAutoTopicCreation": False, "topicType": "non-partitioned"}


@pytest.mark.parametrize(
    ("namespaces", "changed"),
    [
        (Namespaces(there=False), (True, True)),
        (Namespaces(there=False, somebody_else_is_faster=True), (True, True)),
        (Namespaces(there=True), (False, True)),
        (Namespaces(there=True, override=FORBIDDEN), (False, True)),
    ],
)
def test_the_namespace_for_replies_is_made_once(web: Web, namespaces: Namespaces, changed: tuple[bool, bool]) -> None:
    web.answer = namespaces
    what = ("namespace for replies", "topics are created when they are used")
    with Admin(web.url) as admin:
        assert namespaces.steps(admin) == list(zip(what, changed, strict=True))
        web.asked.clear()
        assert namespaces.steps(admin) == [(step, False) for step in what]
    assert {method for method, _ in web.asked} == {"GET"}


def test_a_namespace_for_replies_that_may_not_be_made(web: Web) -> None:
    web.answer = lambda method, path: (404, b"") if method == "GET" else (403, {"reason": "not for you"})
    with Admin(web.url) as admin, pytest.raises(AdminFailed, match="public/default-replies: 403 not for you"):
        list(_create_replies_namespace(admin, "public/default-replies"))


@pytest.mark.parametrize(
    ("answer", "primed"),
    [
        ((200, {"state": "Ready"}), True),
        ((200, {"state": "NoSnapshot"}), False),
        ((200, []), False),
        ((403, {"reason": "not for you"}), False),
    ],
)
def test_is_primed(web: Web, answer: Answer, primed: bool) -> None:
    web.answer = lambda method, path: answer
    with Admin(web.url) as admin:
        assert is_primed(admin, Topics().events_partition(2)) is primed
    assert web.asked == [("GET", "/admin/v3/transactions/transactionBufferStats/public/default/events-partition-2")]


# --- The admin interface ---


def test_a_redirect_to_another_broker_keeps_the_token_and_the_method(web: Web) -> None:
    other_broker = web.url.replace("127.0.0.1", "localhost")

    def answer(method: str, path: str) -> Answer:
        if path == "/admin/v2/here":
            return 307, b"", {"Location": f"{other_broker}/admin/v2/there?authoritative=true"}
        return 204, b""

    web.answer = answer
    with Admin(web.url, "secret") as admin:
        admin.put("v2/here", 3)
    assert web.asked == [("PUT", "/admin/v2/here"), ("PUT", "/admin/v2/there?authoritative=true")]
    assert web.authorizations == ["Bearer secret"] * 2


def test_redirects_end(web: Web) -> None:
    web.answer = lambda method, path: (307, b"", {"Location": path})
    with Admin(web.url) as admin, pytest.raises(AdminFailed, match="more than 5 redirects"):
        admin.get("v2/round")


def test_a_refusal_says_why_in_one_line(web: Web) -> None:
    web.answer = lambda method, path: (412, {"reason": "Not\nlike that"})
    with Admin(web.url) as admin, pytest.raises(AdminFailed) as failure:
        admin.post("v2/x", {})
    assert str(failure.value) == "POST v2/x: 412 Not like that"
    assert failure.value.status == 412


def test_a_page_instead_of_a_reason_is_cut(web: Web) -> None:
    web.answer = lambda method, path: (502, b"<html>" + b"x" * 10_000)
    with Admin(web.url) as admin, pytest.raises(AdminFailed) as failure:
        admin.get("v2/x")
    assert len(str(failure.value)) < 400


def test_another_web_server_is_not_taken_for_pulsar(web: Web) -> None:
    web.answer = lambda method, path: (200, b"<html>welcome</html>")
    with Admin(web.url) as admin, pytest.raises(AdminFailed, match="is this Pulsar's admin interface"):
        admin.get("v2/x")


def test_nobody_listens() -> None:
    with (
        Admin("http://127.0.0.1:1") as admin,
        pytest.raises(AdminFailed, match=r"cannot reach .*:1") as failure,
    ):
        admin.get("v2/x")
    assert failure.value.status == 0


@pytest.mark.parametrize("url", ["localhost:8080", "pulsar://localhost:6650", "", "http://[::1"])
def test_not_an_admin_url(url: str) -> None:
    with pytest.raises(AdminFailed, match="not a URL of an admin interface"):
        Admin(url)
