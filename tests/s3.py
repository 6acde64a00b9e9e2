"""A server on loopback that speaks S3."""

from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest
from moto.server import ThreadedMotoServer


@contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the server, which fsspec finds in the usual ways of its package for S3. Yields the server's URL."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    patch.setenv("AWS_ENDPOINT_URL", url)
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # fsspec keeps file systems: one of another test's server, which is gone, must not be used again.
    kept = fsspec.get_filesystem_class("s3")
    kept.clear_instance_cache()
    try:
        yield url
    finally:
        kept.clear_instance_cache()
        server.stop()
