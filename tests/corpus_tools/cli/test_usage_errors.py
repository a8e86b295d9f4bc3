"""Wrong command lines and configuration files: one sentence with the remedy, exit code 2, nothing written."""

from pathlib import Path

import pytest

from corpus_tools.__main__ import main

WRONG = {
    "clean --min_char 5 in": "no option --min_char. Did you mean --min_chars",
    "clean in --nonsense 1": "no option --nonsense.",
    "clean in --minchars=5": "no option --minchars. Did you mean --min_chars",
    "clean in --min_chars 0": "--min_chars is 0; give a whole number of 1 or more",
    "clean in --min_chars abc": "--min_chars is 'abc'; give a whole number of 1 or more",
    "clean in --min_chars": "--min_chars has no value",
    "clean in --workers -1": "--workers is -1; give a whole number of 0 or more",
    "clean in --validation_fraction 2": "--validation_fraction is 2; give a number from 0 to 1",
    "clean in --output_format csv": "--output_format is csv; give one of 'parquet', 'jsonl'",
    "clean in --fields text=content": "--fields is text=content; give pairs",
    "clean in folder": "folder is one argument too many",
    "clean": "clean needs source",
    "preview": "preview needs file",
    "preview in --limit 0": "--limit is 0",
    "cleen in": "no command cleen; commands are clean, preview and sample. Did you mean clean?",
    "": "give a command: clean, preview or sample",
    "clean --config gone.yaml": "gone.yaml",
    "clean --config misspelt.yaml": "misspelt.yaml: there is no option min_char. Did you mean min_chars",
    "clean --config value.yaml": "value.yaml: --min_chars is 'abc'",
    "clean --config empty.yaml": "empty.yaml: the configuration file is empty",
    "clean --config broken.yaml": "broken.yaml: ",
}
CONFIGS = {
    "misspelt": "source: in\nmin_char: 3\n",
    "value": "source: in\nmin_chars: abc\n",
    "empty": "",
    "broken": "a: [1,\n",
}


@pytest.mark.parametrize("line", WRONG)
def test_one_sentence_says_what_is_wrong(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in CONFIGS.items():
        Path(f"{name}.yaml").write_text(text)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as exit_:
        main(line.split())
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and WRONG[line] in error
    assert error.startswith("error: ") and error.count("\n") == 1 and "--help." in error
    assert sorted(tmp_path.iterdir()) == before
