"""Configs that come with the package, found by name where the folder has none."""

from pathlib import Path

import pytest

from taigi_lightning.cli.shipped_configs import shipped_configs, with_shipped_configs


@pytest.mark.parametrize(
    "written", [["--config", "cpt.yaml"], ["-c", "configs/cpt.yaml"], ["--config=cpt.yaml"]]
)
def test_a_name_without_a_file_means_the_shipped_one(
    written: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, used = with_shipped_configs([*written, "--model.lora.r", "8"])
    assert used == [shipped_configs() / "cpt.yaml"]
    assert found[-3:-2] == [str(used[0])] or found[0] == f"--config={used[0]}"


def test_a_file_of_the_users_own_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cpt.yaml").touch()
    assert with_shipped_configs(["--config", "cpt.yaml"]) == (["--config", "cpt.yaml"], [])


@pytest.mark.parametrize("name", ["my.yaml", "mine/cpt.yaml", "../cpt.yaml", ""])
def test_other_names_stay_as_they_are(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_shipped_configs(["--config", name]) == (["--config", name], [])
