"""The wheel is whole: built, installed alone, and used where there is no checkout."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str, folder: Path, site: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    copied = folder / "source"
    wanted = ("*.py", "*.typed", "*.toml", "*.yaml", "*.md", "*/templates/*", "LICENSE")
    listing = ("git", "ls-files", "--cached", "--others", "--exclude-standard", *wanted)
    tracked = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.splitlines():
        if not name.startswith("tests/"):
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            (copied / name).write_bytes((ROOT / name).read_bytes())
    wheel = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(copied))
    run(*pip, *wheel, folder=folder, site=folder)
    (built,) = folder.glob("*.whl")
    run(
        *pip, "install", "--no-deps", "--target", str(folder / "site"), str(built), folder=folder, site=folder
    )
    return folder / "site"


def test_every_folder_of_the_packages_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {
        ".".join(init.parent.relative_to(ROOT).parts)
        for package in ("corpus_tools", "taigi_lightning")
        for init in (ROOT / package).rglob("__init__.py")
    }
    assert set(settings["tool"]["setuptools"]["packages"]) == folders | {"taigi_lightning.configs"}


def test_every_module_and_template_is_in_the_wheel(site: Path) -> None:
    # Looked for by file: what a wheel lacks, an editable installation beside it would lend to the commands below.
    wanted = {
        path.relative_to(ROOT)
        for package in ("corpus_tools", "taigi_lightning")
        for path in (ROOT / package).rglob("*")
        if path.suffix == ".py" or path.parent.name == "templates"
    }
    assert len(wanted) > 200
    assert [str(path) for path in sorted(wanted) if not (site / path).is_file()] == []


def test_the_stages_configs_travel_with_it(site: Path, tmp_path: Path) -> None:
    told = run(
        sys.executable, "-m", "taigi_lightning", "plan", "--config", "cpt.yaml", "--gpu_memory", "24GiB",
        folder=tmp_path, site=site,
    )  # fmt: skip
    assert str(site / "taigi_lightning" / "configs" / "cpt.yaml") in told
    assert "24" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["corpus_tools", "taigi_lightning"])
def test_both_say_their_version(site: Path, tmp_path: Path, package: str) -> None:
    assert run(sys.executable, "-m", package, "--version", folder=tmp_path, site=site).split() == [
        package.replace("_", "-"),
        "0.1.0",
    ]


def test_a_corpus_is_cleaned_and_its_page_made(site: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("阮兜佇台南，逐工攏有人來坐。" * 20, encoding="utf-8")
    run(
        sys.executable,
        "-m",
        "corpus_tools",
        "clean",
        "texts",
        "--output_dir",
        "corpus",
        folder=tmp_path,
        site=site,
    )
    assert (tmp_path / "corpus" / "report.html").is_file()
