"""Tell why documents are in a corpus version or not.

    python examples/explain_a_document.py [STORAGE]

The example's corpus has one module twice, with a small change: one of the two was dropped.
"""

import sys

import pyarrow.parquet as pq
from build_from_python import build, configuration

from base import manifest
from base.errors import UserError
from base.manifest import Version
from pipelines.corpus.views.explain import explain


def dropped(version: Version) -> list[str]:
    """The ids of the documents that were dropped as duplicates."""
    table = pq.read_table(version.file("dropped/duplicates.parquet"), columns=["document_id"])
    return [identifier.hex() for identifier in table["document_id"].to_pylist()]


def main(storage: str) -> None:
    """Explain each dropped duplicate, with a diff against the document that stays."""
    try:
        version = manifest.require(configuration(storage).storage)
    except UserError:
        version = build(storage)
    for document in dropped(version):
        print("\n".join(explain(version, document, 10)))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
