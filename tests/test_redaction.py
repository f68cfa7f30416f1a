"""Secrets are taken out of what leaves a process, in every form in which they are written."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_sam.errors import ConfigError, TrackingError
from sparse_sam.redaction import _Guarded, has_login, redacted, redacted_values
from sparse_sam.tracking.journal import Journal

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _no_secrets_of_whoever_runs_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name not in {"PATH", "HOME", "PYTHONPATH", "OMP_NUM_THREADS"}:
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:pa55@host:5000/x", "http://***@host:5000/x"),
        ("postgresql+psycopg2://u:pw@127.0.0.1:1/x", "postgresql+psycopg2://***@127.0.0.1:1/x"),
        ("at https://token@host/ and S3://a:b@c.", "at https://***@host/ and S3://***@c."),
        ("mysql://u:p@ss@host/db", "mysql://***@host/db"),
        ("mysql://u:p/w?x#y@host/db", "mysql://***@host/db"),
        ("mysql://u:p'w\"x@host/db", "mysql://***@host/db"),
        ("https://u:p%40ss@host/", "https://***@host/"),
        ("https://host/f?sig=abc%3D&part=2", "https://host/f?sig=***&part=2"),
        ("https://host/f?a=1&X-Amz-Security-Token=abc#x", "https://host/f?a=1&X-Amz-Security-Token=***#x"),
        ("'https://host/f?password=abc'", "'https://host/f?password=***'"),
    ],
)  # fmt: skip
def test_logins_and_telling_parameters_are_hidden_in_every_url(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/experiments/1",
        "https://example.org/mnist/",
        "models:/sparse-sam@champion",
        "sqlite:////tmp/a folder/mlflow.db",
        "git@github.com:somebody/sparse-sam.git",
        "file:///data/x?part=2&offset=3",
        "prune.sparsity = 0.5: must be at least 0",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text
    assert not has_login(text)


NAMES = [
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCESS_KEY",
    "PGPASSWORD",
    "MYSQL_PWD",
    "RAY_AUTH_TOKEN",
    "HF_TOKEN",
    "MY_API_KEY",
    "SOME_CREDENTIALS",
    "DB_PASSWORD2",
    "CLIENTSECRET",
    "github_token",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_values_of_variables_that_hold_secrets_are_hidden(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "q9!x")
    assert redacted("it said q9!x to (q9!x), and q9!xy") == "it said *** to (***), and q9!xy"
    monkeypatch.setenv(name, "Tr0ub4dor")
    assert redacted("wordTr0ub4dorword") == "word***word"
    monkeypatch.setenv(name, "abc")
    assert redacted("abc") == "abc", "too short to be looked for"


@pytest.mark.parametrize(
    "name",
    ["PWD", "TOKENIZERS_PARALLELISM", "AWS_SHARED_CREDENTIALS_FILE", "MAX_TOKENS", "SECRETS_DIR"],
)
def test_variables_that_only_sound_like_it_hide_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "something long")
    assert redacted("something long") == "something long"
    monkeypatch.setenv("CI_JOB_TOKEN", "true")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", __file__)
    said = f"git.dirty: true in {__file__}"
    assert redacted(said) == said


@pytest.mark.parametrize(
    "name", ["MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"]
)
def test_the_passwords_inside_uris_are_hidden_encoded_and_decoded(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    password = 'p@s/s: "wörd"%'  # noqa: S105
    monkeypatch.setenv(
        name, f"postgresql://ann:{quote(password, safe='')}@host/db?sslkey=0th3rs3cr3t"
    )
    written = [password, quote(password), quote(password, safe=""), quote_plus(password)]
    written += [quote(password, safe="").lower(), json.dumps(password), repr(password)]
    for one in written:
        shown = redacted(f"FATAL: password {one} of ann failed")
        assert "wörd" not in shown, shown
        assert "rd%25" not in shown, shown
        assert "FATAL: password" in shown
    assert redacted("0th3rs3cr3t") == "***"


def test_the_key_within_a_connection_string_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=x;AccountKey=k3yk3y==;B=c")
    assert redacted("it said k3yk3y== and AccountName=x") == "it said *** and AccountName=x"


@given(st.text(min_size=8).filter(lambda text: "\0" not in text))
def test_no_secret_is_left_in_any_text(secret: str) -> None:
    secret = secret.encode("utf-8", "ignore").decode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", secret)
        # (The path of a file is taken for what it is.)
        if len(secret) >= 8 and "*" not in secret and not os.path.exists(secret):  # noqa: PTH110
            assert secret not in redacted(f"before{secret}after {quote(secret)}")
            assert quote(secret) not in redacted(f"before{secret}after {quote(secret)}")


@pytest.mark.parametrize("address", ["ann:pw@host:/data", "https:/ann:pw@host/", "s3://k:s@b/"])
def test_a_login_is_seen_where_a_url_may_be_meant(address: str) -> None:
    assert has_login(address)


@pytest.mark.parametrize(
    "piece", ["a", "?", "key", "?key", "://", "a:", "x://a:", "http://@", "%3A"]
)
def test_long_texts_take_no_long_time(piece: str) -> None:
    began = time.monotonic()
    redacted(piece * 20_000)
    assert time.monotonic() - began < 5


def test_hashes_are_left_whole_by_short_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "beef")
    digest = "00beef11" * 4
    assert redacted(digest) == digest
    assert redacted("postgresql%3A%2F%2Fu%3Abeef%40host") == "postgresql%3A%2F%2Fu%3A***%40host"


def test_trees_keep_their_keys_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "prune")
    tree = {"prune": ["prune", 1, 0.5, None, {"x": "https://u:p@h/"}]}
    assert redacted_values(tree) == {"prune": ["***", 1, 0.5, None, {"x": "https://***@h/"}]}


def test_no_error_holds_a_secret() -> None:
    for kind in (ConfigError, TrackingError):
        assert str(kind("cannot reach http://u:p@host")) == "cannot reach http://***@host"


def test_a_journal_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cr3t-token")
    path = tmp_path / "prune.0.jsonl"
    params, tags = {"a": "s3cr3t-token", "b": ["http://u:pw@h"]}, {"x": "is s3cr3t-token"}
    journal = Journal(path, stage="prune", params=params, tags=tags, launcher={})
    journal.child("seed 0", params)
    journal.tags(tags)
    journal.end("FINISHED")
    text = path.read_text()
    assert "s3cr3t" not in text
    assert "u:pw" not in text
    assert '{"a": "***", "b": ["http://***@h"]}' in text


def test_a_stream_hides_what_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "Tr0ub4dor")
    stream = io.StringIO()
    guarded = _Guarded(stream)
    for piece in ("a Tr0u", "b4dor z\nhalf a line of http://u:", "p@h\nend"):
        guarded.write(piece)
    assert stream.getvalue() == "a *** z\nhalf a line of http://***@h\n"
    guarded.flush()
    assert stream.getvalue().endswith("\nend")


def test_a_traceback_shows_no_secret() -> None:
    code = (
        "import os, sys\nfrom sparse_sam.redaction import guard_output\nguard_output()\n"
        "print(os.environ['PGPASSWORD'])\n"
        "try:\n    raise OSError('http://u:secondary@h')\n"
        "except OSError as error:\n    raise RuntimeError(os.environ['PGPASSWORD']) from error\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PGPASSWORD": "Tr0ub4dor"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == "***\n"
    assert "RuntimeError: ***" in done.stderr
    assert "OSError: http://***@h" in done.stderr
    assert "Tr0ub4dor" not in done.stderr


@pytest.mark.parametrize(
    "password",
    [
        *("S3cr<etPassw0rd", "S3cr etPassw0rd", "p@ss/w0rdLong", "12345/secretpart"),
        "a" * 200 + "/" + "b" * 99,
    ],
)
def test_a_password_of_a_variables_url_is_hidden_however_it_is_written(
    monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    uri = f"postgresql://mlflow:{password}@127.0.0.1:1/db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    said = redacted(f"error: MLflow at {uri}: boom")
    assert said == "error: MLflow at postgresql://***@127.0.0.1:1/db: boom"
    assert has_login(uri)


@pytest.mark.parametrize("value", ["/" + "A1b2" * 75, "/proc/1/cwd/x/y"])
def test_a_secret_that_looks_like_a_path_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("API_KEY", value)
    assert redacted("hello") == "hello"


def test_a_value_with_blanks_around_it_is_hidden_without_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter22secret\n")
    assert redacted("token: hunter22secret.") == "token: ***."
