"""Fixtures of the API's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.api.serving import Api, serving


def client(api: Api, region: str = "eu-central-1") -> Any:
    return boto3.client(
        "appmesh",
        endpoint_url=api.url,
        region_name=region,
        aws_access_key_id="MAKTEST",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=10),
    )


@pytest.fixture(scope="session")
def served() -> Iterator[Api]:
    with serving() as api:
        yield api


@pytest.fixture(scope="session")
def one_client(served: Api) -> Any:
    """Making a client takes half a second."""
    return client(served)


@pytest.fixture
def api(served: Api) -> Api:
    served.reset()
    return served


@pytest.fixture
def aws(api: Api, one_client: Any) -> Any:
    return one_client
