"""Simplified articles in Traditional characters: what has several ones by its phrase, Taigi words as they are."""

import pytest

from corpus_tools.cleaning.simplified import to_traditional

MANDARIN = {
    "里面很干净，头发干了，饼干": "裡面很乾淨",
    "心里想，走了五公里，他是里长": "心裡想，走了五公里，他是里長",
    "这个台湾人吃台风天的面条，皇后站在后面": "這個台灣人吃颱風天的麵條，皇后站在後面",
    "学习了如何说话，这个了如指掌，被发明、被发现的药与头发": "學習了如何說話，這個瞭如指掌，被發明、被發現的藥與頭髮",
    "一只船，系统的关系，准备复杂的干部，姑娘": "一隻船，系統的關係，準備複雜的幹部，姑娘",
}
TAIGI = {
    "阮干焦有这个，伊若干焦讲": "阮干焦有這个，伊若干焦講",
    "厝里面真干净，毋通晒干": "厝裡面真乾淨，毋通曬乾",
    "庄里的人拢知影，个个攏佇遮": "庄里的人攏知影，个个攏佇遮",
    "欲去台南，伊的头发干矣": "欲去台南，伊的頭髮干矣",
    "干部欲来揣阿娘，啥人个才情": "幹部欲來揣阿娘，啥人个才情",
}


@pytest.mark.parametrize(("text", "wanted"), [*MANDARIN.items(), *TAIGI.items()])
def test_characters_of_several_meanings_are_written_as_meant(text: str, wanted: str) -> None:
    assert wanted in to_traditional(text)


@pytest.mark.parametrize("text", ["阮干焦欲去庄里，才知影个个攏佇台南。", "伊毋知，若干人佇遮。"])
def test_taigi_in_traditional_characters_stays(text: str) -> None:
    assert to_traditional(text) == text
