"""Questions and other data that a command cannot use, found out before a model is loaded."""

from tests.wrong_inputs.case import Case

PREDICT = "taigi_lightning predict --model.base models/base --model.adapter null --data.questions"
SFT = (
    "taigi_lightning fit --config configs/sft.yaml --config configs/tiny.yaml --model.base models/base "
    "--data.train_file"
)
HEAD = "ID,前文,題幹,選項1,選項2,選項3,選項4\n"
TRAIN = "文章,問題,選項1,選項2,選項3,選項4,正確答案\n"

DATA_FILES = [
    Case(f"{PREDICT} empty.csv", ("empty.csv", "empty"), 1, {"empty.csv": ""}),
    Case(f"{PREDICT} head.csv", ("head.csv",), 1, {"head.csv": HEAD}),
    Case(f"{PREDICT} short.csv", ("short.csv", "選項4"), 1,
         {"short.csv": HEAD.replace(",選項4", "") + "1,a,b,1,2,3\n"}),
    Case(f"{PREDICT} wide.csv", ("wide.csv", "row 1"), 1, {"wide.csv": HEAD + "1,a,b,1,2,3,4,5,6\n"}),
    Case(f"{PREDICT} big5.csv", ("big5.csv", "UTF-8"), 1, {"big5.csv": HEAD.encode("big5")}),
    Case(f"{PREDICT} utf16.csv", ("utf16.csv", "UTF-8"), 1, {"utf16.csv": HEAD.encode("utf-16")}),
    Case(f"{PREDICT} words.docx", ("words.docx", ".csv"), 1, {"words.docx": b"PK"}),
    Case(f"{PREDICT} broken.jsonl", ("broken.jsonl",), 1, {"broken.jsonl": "{"}),
    Case(f"{PREDICT} broken.parquet", ("broken.parquet",), 1, {"broken.parquet": b"PAR1"}),
    Case(f"{PREDICT} twice.csv", ("twice.csv", "7"), 1,
         {"twice.csv": HEAD + "7,a,b,1,2,3,4\n7,a,b,1,2,3,4\n"}),
    Case(f"{SFT} five.csv", ("five.csv", "5"), 1, {"five.csv": TRAIN + "a,b,1,2,3,4,5\n"}),
    Case(f"{SFT} none.csv", ("none.csv", "正確答案"), 1,
         {"none.csv": TRAIN.replace(",正確答案", "") + "a,b,1,2,3,4\n"}),
    Case(f"{SFT} one.csv", ("validation_fraction",), 1, {"one.csv": TRAIN + "a,b,1,2,3,4,1\n"}),
    Case(f"{SFT} part.csv --data.validation_fraction 0.99", ("validation_fraction",), 1,
         {"part.csv": TRAIN + "a,b,1,2,3,4,1\nc,d,1,2,3,4,2\n"}),
    Case(f"{SFT} all.csv --data.validation_fraction 1", ("validation_fraction", "below 1"), 1,
         {"all.csv": TRAIN + "a,b,1,2,3,4,1\n"}),
    Case("taigi_lightning score ids.csv answers.csv", ("ids.csv", "no column Answer", "ID, 答案"), 1,
         {"ids.csv": "ID,答案\n1,2\n", "answers.csv": "ID,Answer\n1,2\n"}),
    Case("taigi_lightning score five.csv answers.csv", ("five.csv", "row 1", "'5'"), 1,
         {"five.csv": "ID,Answer\n1,5\n", "answers.csv": "ID,Answer\n1,2\n"}),
    Case("taigi_lightning score given.csv answers.csv", ("given.csv",), 1,
         {"given.csv": "a\n1\n", "answers.csv": TRAIN + "a,b,1,2,3,4,1\n"}),
]  # fmt: skip
