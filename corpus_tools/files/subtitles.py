"""Subtitles (SubRip, WebVTT) into lines: what is said, without numbers, times, notes and tags."""

from __future__ import annotations

import re

_TIMES = re.compile(r"\s*(?:\d+:)?\d{1,2}:\d{2}[,.]\d{1,3}\s*-->\s*(?:\d+:)?\d{1,2}:\d{2}[,.]\d{1,3}.*")
_SPEAKER = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
_TAGS = re.compile(r"</?(?:[bicuv]|lang|ruby|rt|font)\b[^>]*>|<(?:\d+:)?\d{2}:\d{2}\.\d{3}>|\{\\[^}]*\}")


def subtitle_lines(text: str) -> list[str]:
    """The lines of all cues, each with its line break; a speaker whom WebVTT names stands before what is said.

    >>> subtitle_lines("1\\n00:00:01,000 --> 00:00:03,500\\n<i>你好，</i>\\n我是阿明。")
    ['你好，\\n', '我是阿明。\\n']
    >>> subtitle_lines("WEBVTT\\n\\nNOTE 註\\n\\n00:01.000 --> 00:03.500 align:start\\n<v 阿英>食飽<00:02.000>未？")
    ['阿英：食飽未？\\n']
    """
    lines: list[str] = []
    in_cue = False
    for line in text.splitlines():
        if _TIMES.fullmatch(line):
            in_cue = True
        elif not line.strip():
            in_cue = False
        elif in_cue and (said := _TAGS.sub("", _SPEAKER.sub(r"\1：", line)).strip()):
            lines.append(f"{said}\n")
    return lines
