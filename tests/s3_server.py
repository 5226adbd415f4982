"""A server on this machine that speaks S3, where its packages are installed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest


@contextmanager
def serving() -> Iterator[dict[str, str]]:
    """The environment that leads to a server with a bucket ``bucket``; skips a test without."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    # file systems are kept by fsspec, with the address of the server that was
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        host, port = server.get_host_and_port()
        yield {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.stop()


def empty_bucket() -> None:
    """Makes the bucket, or makes it again."""
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    if fs.exists("bucket"):
        fs.rm("bucket", recursive=True)
    fs.mkdir("bucket")
