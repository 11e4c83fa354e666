"""Install from requirements.txt only the packages that a Colab runtime lacks.

    python -m fer_lib.colab

torch, torchvision and numpy stay as the runtime has them: its driver and its compiled packages were
chosen for those builds, and a kernel that has loaded one build cannot load another.
"""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fer_lib.files import InputError

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
KEPT = ("torch", "torchvision", "numpy")
"""Never installed or replaced, not even as a dependency of another package."""
FRONT_END = ("jupyterlab",)
"""Not needed on Colab, which is itself the front end of the notebooks."""


def missing(requirements: str) -> list[str]:
    """Return the requirements that the installed packages do not satisfy.

    `KEPT` and `FRONT_END` are never among them, nor are requirements whose marker does not apply to
    this runtime.

    Args:
        requirements: the text of a requirements file.
    """
    return [
        str(one)
        for one in _parse(requirements)
        if one.name not in KEPT + FRONT_END and not _satisfied(one)
    ]


def install(requirements: str) -> list[str]:
    """Install the missing requirements with pip, with `KEPT` pinned to the installed versions.

    Args:
        requirements: the text of a requirements file.

    Returns:
        The requirements that were installed.

    Raises:
        InputError: pip could not install them.
    """
    wanted = missing(requirements)
    if not wanted:
        return []
    kept = [f"{name}=={found}" for name in KEPT if (found := _installed(name))]
    with TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(kept), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        done = subprocess.run([*pip, *wanted], check=False)
    if done.returncode:
        raise InputError(
            f"pip could not install {', '.join(wanted)} beside {', '.join(kept)}: "
            "choose a newer runtime (Runtime > Change runtime type), then run the cell again"
        )
    return wanted


def unsuited(requirements: str) -> list[str]:
    """Return a sentence for each package of `KEPT` that is absent or not in the required range."""
    return [
        f"{one.name} is {_installed(one.name) or 'not installed'}, the project is made for {one}: "
        "it stays as it is, and some of what follows may fail"
        for one in _parse(requirements)
        if one.name in KEPT and not _satisfied(one)
    ]


def _parse(requirements: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in requirements.splitlines())
    parsed = [Requirement(line) for line in lines if line]
    for one in parsed:
        one.name = canonicalize_name(one.name)
    return [one for one in parsed if one.marker is None or one.marker.evaluate()]


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _satisfied(requirement: Requirement) -> bool:
    found = _installed(requirement.name)
    return found is not None and requirement.specifier.contains(found, prereleases=True)


def main() -> int:
    """Install what is missing and print what was done; return the exit status, 1 after an error."""
    try:
        requirements = REQUIREMENTS.read_text(encoding="utf-8")
    except FileNotFoundError:
        print(f"{REQUIREMENTS} does not exist: run this inside a clone of the repository")
        return 1
    for sentence in unsuited(requirements):
        print(sentence)
    try:
        installed = install(requirements)
    except InputError as error:
        print(error)
        return 1
    print(f"installed {', '.join(installed)}" if installed else "nothing to install")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
