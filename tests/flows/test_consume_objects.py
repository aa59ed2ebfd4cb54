"""millrace consume over files in object storage: when it looks, and when a pass is due."""

from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from benchmarks.servers import Address
from flows.consumer import passes
from transforms.home import Settings
from transforms.sources.source import Source
from transforms.warehouse.tables import Warehouse


def test_a_pass_is_due_when_objects_have_come_and_when_the_store_fails(
    s3_address: Address,
    make_source: Callable[..., Source],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint = f"http://{s3_address.host}:{s3_address.port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="consumed")
    client.put_object(Bucket="consumed", Key="in/a.jsonl", Body=b"1\n")
    source, warehouse = make_source("s3://consumed/in"), Warehouse(Settings(home=tmp_path / "home"))
    origin = passes._origin_of(source, warehouse.settings)
    assert isinstance(origin, passes._Folder)
    assert not origin.is_due()
    assert not origin.is_due(), "within ten seconds nothing is asked"
    monkeypatch.setattr(passes, "SECONDS_BETWEEN_LISTINGS", -1.0)
    origin._look_at = 0.0
    assert origin.is_due()
    assert origin.load(source, warehouse).rows_loaded == 1
    assert not origin.is_due()
    client.put_object(Bucket="consumed", Key="in/b.jsonl", Body=b"2\n")
    assert [origin.is_due(), origin.is_due()] == [False, True]
    assert origin.load(source, warehouse).rows_loaded == 1
    client.delete_object(Bucket="consumed", Key="in/a.jsonl")
    client.delete_object(Bucket="consumed", Key="in/b.jsonl")
    client.delete_bucket(Bucket="consumed")
    assert origin.is_due(), "the pass says why"
