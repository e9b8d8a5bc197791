import threading
from collections.abc import Iterator

import pytest

from tests.ingest.serving import Server


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    thread = threading.Thread(target=served.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield served
    served.stopping.set()
    served.http.shutdown()
    thread.join()
    served.http.server_close()
