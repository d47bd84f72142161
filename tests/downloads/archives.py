"""Archives as a server has them, and what a download leaves in its folder."""

import io
import json
import random
import zipfile

from verse3d.downloads.lock import LOCK_FILE
from verse3d.downloads.mirrors import Archive

ONE = Archive(19, "training")


TWO = Archive(20, "test")


PART = "dataset-verse19training.zip.base.part"


def make_zip(seed, size=300_000):
    """A zip file whose bytes cannot be compressed; its length is odd."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("rawdata/sub-verse004/sub-verse004_ct.nii.gz", random.Random(seed).randbytes(size))
    return buffer.getvalue()


BODY = make_zip(1)


OTHER = make_zip(2, 290_001)


HTML = b"<!DOCTYPE html><html><body>This bucket has moved.</body></html>"


def lock(data):
    return {row["file"]: row for row in json.loads((data / LOCK_FILE).read_text())["files"]}


def names(data):
    return sorted(path.name for path in data.iterdir())


def begun(data, size=100_000, body=BODY, **origin):
    """Leave the beginning of a transfer, as a killed process does."""
    data.mkdir()
    (data / PART).write_bytes(body[:size])
    (data / f"{PART}.json").write_text(json.dumps(origin))
