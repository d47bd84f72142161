"""Which program trains: a hash of its own source, so that a resumed run knows whether it has changed."""

import hashlib
from functools import lru_cache
from pathlib import Path

import verse3d


@lru_cache(maxsize=1)
def code_sha256() -> str:
    """Of all Python files of the package, as they were when this process first asked; takes milliseconds."""
    package = Path(verse3d.__file__).parent
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        total.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()
