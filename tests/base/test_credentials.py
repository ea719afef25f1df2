import pickle

import pytest

from base import files
from base.credentials import hidden, hide, restored
from base.errors import UserError

SECRET = [
    ("https://anna:s3cret@host.org/a.jsonl", "https://***@host.org/a.jsonl"),
    ("https://ghp_token@host.org/a", "https://***@host.org/a"),
    ("simplecache::sftp://anna:s3@host:22/x", "simplecache::sftp://***@host:22/x"),
    ("s3://AKIA:abc+d=@bucket/x/*.parquet", "s3://***@bucket/x/*.parquet"),
    ("postgresql://me:pa@db/x", "postgresql://***@db/x"),
    (
        "https://h/a?X-Amz-Date=2026&X-Amz-Signature=f00&part=3",
        "https://h/a?X-Amz-Date=***&X-Amz-Signature=***&part=3",
    ),
    ("https://h/a.gz?sv=22&se=2026&sp=r&sig=aa%3D", "https://h/a.gz?sv=***&se=***&sp=***&sig=***"),
    ("postgresql+psycopg2://me:p/a?s#s@db:5432/x", "postgresql+psycopg2://***@db:5432/x"),
    ("mysql://me:12/34@db/x", "mysql://***@db/x"),
    ("s3://AKIA:ab/c+d/e=@bucket/x", "s3://***@bucket/x"),
    ("https://me:p/a?s#s@mlflow.org/x", "https://***@mlflow.org/x"),
    ("sftp://me:p@s@host/x", "sftp://***@host/x"),
    ("https://h/a?code=4&state=1", "https://h/a?code=***&state=1"),
    ("https://h/a?jwt=e.y.J", "https://h/a?jwt=***"),
    (
        "https://h/a?PHPSESSION=1&session_id=4&session=2",
        "https://h/a?PHPSESSION=***&session_id=***&session=***",
    ),
    ("https://h/a?id=7&token=t", "https://h/a?id=7&token=***"),
    ("https://h/a?api_key=t&page=2", "https://h/a?api_key=***&page=2"),
    (
        "https://h/a?Expires=1&Signature=t&Key-Pair-Id=K",
        "https://h/a?Expires=***&Signature=***&Key-Pair-Id=***",
    ),
    ("https://h/a?client_secret=t&x=1", "https://h/a?client_secret=***&x=1"),
    ("https://h/a?AWSAccessKeyId=t&x=1", "https://h/a?AWSAccessKeyId=***&x=1"),
    ("https://h/a?GoogleAccessId=t&x=1", "https://h/a?GoogleAccessId=***&x=1"),
    ("https://h/a?passwd=t&pwd=u&password=v", "https://h/a?passwd=***&pwd=***&password=***"),
    ("https://h/a?Authorization=t&credential=u", "https://h/a?Authorization=***&credential=***"),
    ("https://h/a?Policy=t&Signature=u", "https://h/a?Policy=***&Signature=***"),
    (
        "https://h/a?skoid=1&sktid=2&spr=3&sip=4&sig=5",
        "https://h/a?skoid=***&sktid=***&spr=***&sip=***&sig=***",
    ),
    ("x-goog: https://h/a?X-Goog-Expires=9", "x-goog: https://h/a?X-Goog-Expires=***"),
    ("http://token@h/a b https://u:p@i/c", "http://***@h/a b https://***@i/c"),
    ("https://u:p@h/a@b:c@d", "https://***@h/a@b:c@d"),
    ("https://u:p@h/x://a:b@c", "https://***@h/x://a:b@c"),
    (
        'no file matches "https://a:b@h/x", see s3://bucket',
        'no file matches "https://***@h/x", see s3://bucket',
    ),
]
OPEN = [
    "/data/a?.jsonl",
    "s3://bucket/part-?.jsonl?versionId=3",
    "abfs://container@account.dfs.core.windows.net/x",
    "hf://datasets/user/name@main/a.parquet",
    "https://h/a?page=2&sp=3&se=4",
    "https://h/@anna:x/a",
    "http://h:8080/a@1/b",
    "hdfs://name:8020/x/a@b",
    "https://h:80?x=a@b",
    "postgresql://db:5432/x",
    "https://h/a?codec=4&postcode=1",
    "no URL, but token=abc and a:b@c",
]


@pytest.mark.parametrize(("text", "shown"), SECRET)
def test_credentials_are_hidden(text: str, shown: str) -> None:
    assert hide(text) == shown == hide(shown)


@pytest.mark.parametrize("text", OPEN)
def test_what_is_no_credential_stays(text: str) -> None:
    assert hide(text) == text


def test_hidden_values_are_restored_from_those_that_have_the_credentials() -> None:
    given = {"urls": ["https://a:new@h/x", "/local"], "weights": {"x": 0.5}, "other": None}
    noted = hidden({**given, "urls": ["https://a:old@h/x", "/local"]})
    assert noted["urls"] == ["https://***@h/x", "/local"]
    assert restored(noted, given) == given
    assert restored(noted, {}) == noted


def test_messages_and_keys_have_no_credentials() -> None:
    mistake = UserError("no file matches https://a:b@h/x")
    assert str(mistake) == str(pickle.loads(pickle.dumps(mistake))) == "no file matches https://***@h/x"
    old, new = ({"url": f"https://h/a?token={token}"} for token in ("one", "two"))
    assert files.key_of(old) == files.key_of(new) != files.key_of({"url": "https://h/b?token=one"})
