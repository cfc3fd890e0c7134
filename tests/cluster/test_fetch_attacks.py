"""Pictures at slow addresses and at names that no DNS server resolves; text and other pictures do not wait for them.

The service may fetch from private addresses here, and its DNS server never answers. Needs root, as `nodes.py` does.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.attacks import CHAT, post_each
from tests.cluster.bystander import PICTURE, Bystander, bystander
from tests.cluster.conftest import Service, started

pytestmark = pytest.mark.cluster

SILENT_DNS = "127.0.0.53"
USE_OTHER_DNS = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
SETTINGS = {"GLM_PREPROCESS__FETCH_PRIVATE_ADDRESSES": "true", "GLM_PREPROCESS__FETCH_TIMEOUT_S": "6"}


@pytest.fixture(scope="module")
def fetching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("fetching")
    resolv_conf = folder / "resolv.conf"
    resolv_conf.write_text(f"nameserver {SILENT_DNS}\noptions timeout:15 attempts:1\n")
    within = ["unshare", "--mount", "bash", "-c", USE_OTHER_DNS, str(resolv_conf)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((SILENT_DNS, 53))
        with started(folder, within=within, **SETTINGS) as service:
            yield service


@pytest.fixture(scope="module")
def undisturbed_there(fetching: Service) -> Bystander:
    with bystander(fetching.base_url, least_s=4.0) as one:
        pass
    return one


class SlowHost:
    """A web server at an address of its own that accepts connections and sends a byte a second."""

    def __init__(self, address: str, port: int, file: bytes | None = None) -> None:
        self._file = file
        self._listening = socket.create_server((address, port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # ends the thread's accept
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._respond, args=(connection,), daemon=True).start()

    def _respond(self, connection: socket.socket) -> None:
        try:
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(self._file) if self._file else 1000)
            connection.sendall(head + (self._file or b""))
            while self._file is None:
                connection.sendall(b"x")
                time.sleep(1)
            connection.close()
        except OSError:
            connection.close()


def shown(url: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 2}


@pytest.mark.parametrize("hosts", [16, 48])
def test_slow_hosts_delay_neither_others_nor_other_hosts(fetching: Service, undisturbed_there: Bystander, hosts: int):
    """16 of them made a text question wait for 9 s, 48 for 29 s."""
    slow = [SlowHost(f"127.0.1.{number}", 8099) for number in range(1, hosts + 1)]
    fast = SlowHost("127.0.2.1", 8099, PICTURE)
    requests = [{"json": shown(f"http://127.0.1.{number}:8099/x.jpg")} for number in range(1, hosts + 1)]
    try:
        with bystander(fetching.base_url, undisturbed_there, least_s=6.0), fetching.client() as client:
            statuses: list[Any] = []
            attack = threading.Thread(target=lambda: statuses.append(post_each(fetching, requests)))
            attack.start()
            time.sleep(1)
            started_at = time.monotonic()
            assert client.post(CHAT, json=shown("http://127.0.2.1:8099/x.jpg")).status_code == 200
            waited_s = time.monotonic() - started_at
            attack.join(60)
        assert set(statuses[0]) == {400}
        assert waited_s < 3 + 5 * max(undisturbed_there.answers_s), "a picture of another host"
    finally:
        for host in (*slow, fast):
            host.close()


def test_one_slow_host_delays_no_other(fetching: Service, undisturbed_there: Bystander):
    slow = SlowHost("127.0.1.1", 8098)
    requests = [{"json": shown(f"http://127.0.1.1:8098/{number}.jpg")} for number in range(48)]
    with bystander(fetching.base_url, undisturbed_there, least_s=6.0):
        assert set(post_each(fetching, requests)) == {400}
    slow.close()


def test_slow_dns_delays_nobody(fetching: Service, undisturbed_there: Bystander):
    """Look-ups took the threads that decode `data:` URLs."""
    requests = [{"json": shown(f"http://host-{number}.example/x.jpg")} for number in range(48)]
    with bystander(fetching.base_url, undisturbed_there, least_s=6.0):
        assert set(post_each(fetching, requests)) == {400}
