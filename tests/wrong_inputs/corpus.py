"""What is typed wrong after `python -m corpus_tools`, and data that it cannot use."""

from tests.wrong_inputs.case import Case

TOOL = "corpus_tools"
ARTICLES = '[{"title": "a", "author": "b", "text": "阮佇台南，伊講今仔日真好。", "paragraph_id": 1}]'


def config(name: str, text: str | bytes, *words: str) -> Case:
    """A config of `clean`."""
    return Case(f"{TOOL} clean --config {name}.yaml", (f"{name}.yaml", *words), 2, {f"{name}.yaml": text})


CORPUS = [
    # options
    Case(f"{TOOL} clean --min_char 5 in", ("no option --min_char", "Did you mean --min_chars")),
    Case(f"{TOOL} clean in --nonsense 1", ("no option --nonsense",)),
    Case(f"{TOOL} clean in --minchars=5", ("no option --minchars", "Did you mean --min_chars")),
    Case(f"{TOOL} clean in --min_chars 0", ("--min_chars is 0", "a whole number of 1 or more")),
    Case(f"{TOOL} clean in --min_chars abc", ("--min_chars is 'abc'", "a whole number of 1 or more")),
    Case(f"{TOOL} clean in --min_chars", ("--min_chars has no value",)),
    Case(f"{TOOL} clean in --workers -1", ("--workers is -1", "a whole number of 0 or more")),
    Case(f"{TOOL} clean in --validation_fraction 2", ("--validation_fraction is 2", "a number from 0 to 1")),
    Case(f"{TOOL} clean in --output_format csv", ("--output_format is csv", "'parquet', 'jsonl'")),
    Case(f"{TOOL} clean in --fields text=content", ("--fields is text=content", "pairs")),
    Case(f"{TOOL} clean in --optional_rules [htm]", ("--optional_rules is ['htm']", "mojibake, html, pages")),
    Case(f"{TOOL} clean in --own_rules x", ("--own_rules is x", "name and pattern")),
    Case(f"{TOOL} sample --output_dir x", ("corpus_tools sample FOLDER",)),
    Case(f"{TOOL} clean in folder", ("folder is one argument too many",)),
    Case(f"{TOOL} clean", ("clean needs source",)),
    Case(f"{TOOL} preview", ("preview needs file",)),
    Case(f"{TOOL} preview in --limit 0", ("--limit is 0",)),
    Case(f"{TOOL} cleen in", ("no command cleen", "clean, preview and sample", "Did you mean clean?")),
    Case(TOOL, ("give a command: clean, preview or sample",)),
    Case(f"{TOOL} clean in --min_chars {10**25}", (str(10**25), "max_chars 2048", "smaller"), 1),
    Case(f"{TOOL} clean in --validation_fraction .nan", ("--validation_fraction", "a number from 0 to 1")),
    # configs
    Case(f"{TOOL} clean --config gone.yaml", ("gone.yaml",)),
    config("misspelt", "source: in\nmin_char: 3\n", "no option min_char", "Did you mean min_chars"),
    config("value", "source: in\nmin_chars: abc\n", "--min_chars is 'abc'"),
    config("own", "own_rules:\n- nme: x\n", "no key nme", "own rules have name, pattern"),
    config("empty", "", "the configuration file is empty"),
    config("broken", "a: [1,\n"),
    config("tabs", "source: in\n\tmin_chars: 3\n"),
    config("twice", "source: in\nmin_chars: 3\nmin_chars: 4\n", "line 3", "min_chars is there twice", "line 2"),
    config("deep", "a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    config("utf16le", "source: in\n".encode("utf-16-le")),
    # data
    Case(f"{TOOL} clean nowhere", ("nowhere",), 1),
    Case(f"{TOOL} clean raw --output_dir raw", ("raw",), 1, {"raw/a.json": ARTICLES}),
    Case(f"{TOOL} clean raw --output_dir raw/out", ("raw",), 1, {"raw/a.json": ARTICLES}),
    Case(f"{TOOL} clean raw --output_dir .", ("current one", "--output_dir"), 1, {"raw/a.json": ARTICLES}),
    Case(f"{TOOL} clean raw --output_dir configs", ("configs",), 1, {"raw/a.json": ARTICLES}),
    Case(f"{TOOL} clean raw --output_dir ''", ("output",), 1, {"raw/a.json": ARTICLES}),
    Case(f"{TOOL} clean cut --output_dir out1 --workers 1", ("cut/a.json", "--skip_bad_files"), 1,
         {"cut/a.json": ARTICLES[:-2]}),
    Case(f"{TOOL} clean wide --output_dir out2 --workers 1", ("wide/a.json", "UTF-8"), 1,
         {"wide/a.json": ARTICLES.encode("utf-16-le")}),
    Case(f"{TOOL} clean raw/a.json --output_dir raw/a.json/out", ("raw/a.json",), 1, {"raw/a.json": ARTICLES}),
    Case(f"{TOOL} preview raw", ("raw is no file",), 1, {"raw/a.json": ARTICLES}),
    Case(f"{TOOL} preview 'e\x1b[2K\u202evil.json'", ("e\\x1b[2K\\u202evil.json",), 1),
]  # fmt: skip
