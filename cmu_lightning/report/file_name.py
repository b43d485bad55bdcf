"""Names of files and folders of what has a name of its own."""

import hashlib
import re

LONGEST = 80


def file_name(said: str) -> str:
    """A name in letters, digits, `_`, `.`, `=` and `-`; a long one is cut and ends with a digest of the whole."""
    name = re.sub(r"[^\w.=-]+", "_", said).strip("_")
    digest = hashlib.sha256(said.encode()).hexdigest()[:8]
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{digest}"
