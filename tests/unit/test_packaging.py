"""What is not Python is in the wheel, too."""

import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]


def test_every_file_of_a_package_is_shipped() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = [name.removesuffix("*") for name in setuptools["packages"]["find"]["include"]]
    listed = subprocess.run(
        ["git", "ls-files", *packages], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [PurePosixPath(line) for line in listed.stdout.splitlines()]
    shipped = [
        PurePosixPath("" if package == "*" else package.replace(".", "/"), pattern)
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
    ]
    left_out = [
        str(file)
        for file in files
        if file.suffix != ".py"
        and not any(
            fnmatch(str(file), str(pattern)) or file.name == str(pattern) for pattern in shipped
        )
    ]
    assert files
    assert left_out == []
