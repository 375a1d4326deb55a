"""An S3 server on a port of this machine: moto's, whose conditional writes are made one at a time.

moto looks whether a key is there and then writes it, in threads without a lock: of two that write at once both may be
told that they were first. A store that says so loses commits, and is refused by `Lake.make`.
"""

import sys
from collections.abc import Iterable
from threading import Lock
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

moto = DomainDispatcherApplication(create_backend_app)
one_at_a_time = Lock()


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    if "HTTP_IF_NONE_MATCH" in environ or "HTTP_IF_MATCH" in environ:
        with one_at_a_time:
            return moto(environ, start_response)
    return moto(environ, start_response)


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True, request_handler=MotoRequestHandler)
