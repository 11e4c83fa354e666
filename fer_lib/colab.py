"""Install from requirements.txt only the packages that a Colab runtime lacks.

    python -m fer_lib.colab

torch, torchvision and numpy stay as the runtime has them: its driver and its compiled packages were
chosen for those builds, and a kernel that has loaded one build cannot load another.
"""

import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
KEPT = ("torch", "torchvision", "numpy")
FRONT_END = "jupyterlab"  # not needed on Colab, which is itself the front end of the notebooks
PIP = [
    *("-m", "pip", "install", "--quiet"),
    *("--disable-pip-version-check", "--root-user-action", "ignore"),
]


def main() -> int:
    """Install what is missing and print what was done; return the exit status, 1 after an error."""
    if not REQUIREMENTS.exists():
        print(f"{REQUIREMENTS} does not exist: run this inside a clone of the repository")
        return 1
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if not line.startswith(FRONT_END)]
    kept = [f"{name}=={version(name)}" for name in KEPT if find_spec(name)]
    with TemporaryDirectory() as folder:
        files = Path(folder, "requirements.txt"), Path(folder, "constraints.txt")
        for path, text in zip(files, (wanted, kept), strict=True):
            path.write_text("\n".join(text), encoding="utf-8")
        command = [sys.executable, *PIP, "-r", str(files[0]), "-c", str(files[1])]
        failed = subprocess.run(command, check=False).returncode
    if failed:
        print(
            f"pip could not install {REQUIREMENTS.name} beside {', '.join(kept)}, see above: if it "
            "had no connection, run the cell again; if versions conflict, choose a newer runtime "
            "(Runtime > Change runtime type) first"
        )
        return 1
    print(f"everything in {REQUIREMENTS.name} is installed; {', '.join(kept)} stayed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
