"""Subtitles (SubRip, WebVTT) into lines: what is said, without numbers, times, notes and tags."""

from __future__ import annotations

import re
from itertools import chain, pairwise, starmap

_TIMES = re.compile(r"\s*(?:\d+:)?\d{1,2}:\d{2}[,.]\d{1,3}\s*-->\s*(?:\d+:)?\d{1,2}:\d{2}[,.]\d{1,3}.*")
_SPEAKER = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
_TAGS = re.compile(r"</?(?:[bicuv]|lang|ruby|rt|font)\b[^>]*>|<(?:\d+:)?\d{2}:\d{2}\.\d{3}>|\{\\[^}]*\}")
# Where lines roll, so many cues begin with what the one before ends with, and this share of all.
_ENOUGH, _MOSTLY = 8, 0.6


def subtitle_lines(text: str) -> list[str]:
    """The lines of all cues, each with its line break; a speaker whom WebVTT names stands before what is said.

    Where lines roll upwards, as in the captions that YouTube makes, each cue shows lines of the one before it again:
    they are read once.

    >>> subtitle_lines("1\\n00:00:01,000 --> 00:00:03,500\\n<i>你好，</i>\\n我是阿明。")
    ['你好，\\n', '我是阿明。\\n']
    >>> subtitle_lines("WEBVTT\\n\\nNOTE 註\\n\\n00:01.000 --> 00:03.500 align:start\\n<v 阿英>食飽<00:02.000>未？")
    ['阿英：食飽未？\\n']
    """
    cues: list[list[str]] = []
    in_cue = False
    for line in text.splitlines():
        if _TIMES.fullmatch(line):
            in_cue = True
            cues.append([])
        elif not line.strip():
            # A caption that rolls may begin with a line of one space.
            in_cue = in_cue and bool(line) and not cues[-1]
        elif in_cue and (said := _TAGS.sub("", _SPEAKER.sub(r"\1：", line)).strip()):
            cues[-1].append(f"{said}\n")
    cues = [cue for cue in cues if cue]
    shown_again = list(starmap(_shown_again, pairwise([[], *cues])))
    if sum(map(bool, shown_again)) < max(_ENOUGH, _MOSTLY * len(cues)):
        return list(chain(*cues))
    return [line for cue, again in zip(cues, shown_again, strict=True) for line in cue[again:]]


def _shown_again(before: list[str], cue: list[str]) -> int:
    """With how many of the last lines of the cue before another one begins."""
    for count in range(min(len(before), len(cue)), 0, -1):
        if before[-count:] == cue[:count]:
            return count
    return 0
