"""A build with a format, a filter and an edit from outside the package, named by import path."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from base.errors import UserError
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.versions.verify import verify
from pipelines.corpus.views.explain import explain
from pipelines.runtime.executor import InProcess
from pipelines.runtime.progress import silent
from tests.helpers import builds
from tests.helpers.builds import config, documents, refresh, run, write

MODULE = """
import pyarrow.compute as pc

from pipelines.corpus.reading.formats import Format

FORMAT = Format(name="sheets", documents="one a file", reader="own_code_of_a_test", suffixes=(".sheets",))


def read(url, source, config):
    from pipelines.corpus.reading.plaintext import read as read_text

    yield from read_text(url, source, config)


def no_eleven(texts):
    return pc.if_else(pc.match_substring(texts, " 11."), "eleven", None)


no_eleven.name, no_eleven.version = "no_eleven", 1


def shout(texts):
    return pc.utf8_upper(texts)


shout.name, shout.version = "shout", 1
"""


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_code_of_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    write(tmp_path / "raw" / "books" / "0.jsonl", documents(1, 30))
    (tmp_path / "raw" / "web").mkdir()
    (tmp_path / "raw" / "web" / "page.sheets").write_text("".join(documents(3, 3)))
    return tmp_path / "raw"


def test_they_decide_and_change_and_are_counted(raw: Path, tmp_path: Path) -> None:
    own = (
        "plugins.filters=['own_code_of_a_test:no_eleven']",
        "plugins.edits=['own_code_of_a_test:shout']",
        f"sources.1.urls=[{raw}/web/page.sheets]",
        "sources.1.format=own_code_of_a_test:FORMAT",
    )
    settings = config(raw, tmp_path / "own", *own)
    version = run(settings).version
    ledger = Ledger.from_json(version.manifest.ledger)
    ledger.check()
    assert ledger.sources["web"]["read"].documents_in == 1
    books = ledger.sources["books"]
    assert books["quality"].dropped["plugins.no_eleven.eleven"]["documents"] >= 1
    assert books["plugins"].documents_out == books["plugins"].documents_in > 10
    dropped = pq.read_table(version.file("dropped/quality.parquet")).to_pylist()
    eleven, *_ = [row for row in dropped if row["reason"] == "plugins.no_eleven.eleven"]
    assert any("plugins.no_eleven.eleven" in line for line in explain(version, eleven["document_id"].hex()))
    vocabulary = json.loads(Path(version.tokenizer_url).read_text())["model"]["vocab"].keys()
    letters = {letter for token in vocabulary - {"<|endoftext|>"} for letter in token if len(token) > 1}
    assert not {letter for letter in letters if letter.isascii() and letter.islower()}
    assert version.manifest.config["plugins"]["edits"][0]["version"] == 1
    assert "own edits" in Path(version.file("report.html")).read_text()
    # It is found again, refreshed, and mended like any other.
    assert not run(settings).new
    write(raw / "books" / "1.jsonl", documents(5, 20))
    second = refresh(settings).version
    assert second.name == "v0002"
    Path(version.file("dropped/quality.parquet")).unlink()
    damage = verify([version], executor=InProcess(), progress=silent)
    assert len(damage) == 1
    assert builds.mended(settings, [version], damage) == []


def test_a_corpus_made_with_other_versions_of_them_is_not_refreshed(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(
        raw,
        tmp_path / "own",
        "plugins.edits=['own_code_of_a_test:shout']",
        f"sources.1.urls=[{raw}/web/page.sheets]",
        "sources.1.format=text",
    )
    run(settings)
    import own_code_of_a_test  # type: ignore[import-not-found]

    monkeypatch.setattr(own_code_of_a_test.shout, "version", 2)
    write(raw / "books" / "1.jsonl", documents(5, 20))
    with pytest.raises(UserError, match="plugins changed"):
        refresh(settings)
