"""The code of a run as it is now, for jobs that start later."""

import os
import shutil
import tempfile
from pathlib import Path

from runners.config import ROOT
from runners.provenance import CODE, COMMIT_FILE, code_digest, code_version

IGNORED = shutil.ignore_patterns("__pycache__", "*_test.py")


def snapshot(results_dir: Path) -> Path:
    """A copy of what a run executes, in ``results_dir/.code/<digest>``; made once, never changed.

    A job whose working directory it is imports this code, whatever has become of the checkout, and
    its record names the digest of the files that it ran.
    """
    folder = results_dir / ".code" / code_digest()
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        for name in CODE:
            shutil.copytree(ROOT / name, temporary / name, ignore=IGNORED)
        (temporary / COMMIT_FILE).write_text(code_version()["commit"])
        temporary.chmod(0o755)
        os.rename(temporary, folder)
    except OSError:
        if not folder.exists():  # or another sweep was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
