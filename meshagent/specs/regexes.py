"""What is certainly wrong with a regular expression in RE2's syntax, which is Envoy's: a false alarm would refuse what works.

Judges the structure only: groups, classes, repetitions, escapes. What passes here may still be refused by Envoy (an unknown Unicode
class, a program too large), which then says so itself. The syntax is that of RE2's doc/syntax.txt.
"""

from __future__ import annotations

import re

_ESCAPES = frozenset("AbBCdDsSwWzpPafnrtvxQE0")
_MAX_REPEAT = 1000
_REPEAT = re.compile(r"\{(\d+)(?:,(\d*))?\}", re.ASCII)
_GROUP = re.compile(r"\(\?(?:P?<(?![=!])|(?P<flags>[imsU]*(?:-[imsU]+)?)(?P<end>[:)]))")
_UNSUPPORTED = {
    "(?=": "a lookahead, which RE2 does not have",
    "(?!": "a lookahead, which RE2 does not have",
    "(?<=": "a lookbehind, which RE2 does not have",
    "(?<!": "a lookbehind, which RE2 does not have",
    "(?>": "an atomic group, which RE2 does not have",
    "(?#": "a comment, which RE2 does not have",
    "(?P=": "a back-reference, which RE2 does not have",
    "(?P>": "a subroutine call, which RE2 does not have",
}


def flaw_of(pattern: str) -> str:
    """Why RE2 refuses the pattern, with the place counted in characters from 0; "" when nothing is certain."""
    return _Scan(pattern).flaw()


class _Scan:
    """One pass from left to right. `operand` is whether there is something that a repetition could repeat, `repeated` where a
    repetition has just ended."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0
        self.open: list[int] = []
        self.operand, self.repeated = False, -1

    def flaw(self) -> str:
        while self.at < len(self.pattern):
            reason = self._step()
            if reason:
                return reason
        return f"the ( at {self.open[-1]} has no )" if self.open else ""

    def _step(self) -> str:
        char = self.pattern[self.at]
        if char in "*+?":
            return self._repeat(self.at + 1)
        if char == "{" and (counts := _REPEAT.match(self.pattern, self.at)):
            return self._repeat(counts.end(), counts)
        if char == "(":
            return self._group()
        if char == "[":
            return self._class()
        if char == "\\":
            return self._escape()
        if char == ")":
            if not self.open:
                return f"the ) at {self.at} has no ("
            self.open.pop()
        self.operand = char != "|"
        self.at += 1
        return ""

    def _repeat(self, end: int, counts: re.Match[str] | None = None) -> str:
        operator = self.pattern[self.at : end]
        if not self.operand:
            return f"there is nothing before the {operator} at {self.at} that it could repeat"
        if self.repeated == self.at:
            return f"the {operator} at {self.at} repeats a repetition: group what is before it"
        if counts is not None:
            low = counts[1]
            high = counts[2] or low
            if any(len(bound) > 4 or int(bound) > _MAX_REPEAT for bound in (low, high)) or int(low) > int(high):
                return f"the repetition {operator} at {self.at} must go from low to high and not above {_MAX_REPEAT}"
        self.at = end + (self.pattern[end : end + 1] == "?")
        self.repeated = self.at
        return ""

    def _group(self) -> str:
        start = self.at
        if not self.pattern.startswith("(?", start):
            self.open.append(start)
            self.at, self.operand = start + 1, False
            return ""
        for opening, reason in _UNSUPPORTED.items():
            if self.pattern.startswith(opening, start):
                return f"the {opening} at {start} is {reason}"
        group = _GROUP.match(self.pattern, start)
        if group is None:
            return f"the group at {start} must start with (, (?:, (?P<name> or flags such as (?i)"
        if group["end"] is None and ">" not in self.pattern[group.end() :]:
            return f"the group's name at {start} has no >"
        self.at = group.end() if group["end"] else self.pattern.index(">", group.end()) + 1
        if group["end"] != ")":  # (?i) only sets flags: it opens nothing, and nothing before it is hidden by it
            self.open.append(start)
            self.operand = False
        elif self.repeated == start:
            self.repeated = -1
        return ""

    def _class(self) -> str:
        start = self.at
        self.at += 1 + self.pattern.startswith("^", start + 1)
        first = True
        while self.at < len(self.pattern):
            if self.pattern[self.at] == "]" and not first:
                self.at += 1
                self.operand = True
                return ""
            first = False
            if self.pattern.startswith("[:", self.at) and (end := self.pattern.find(":]", self.at + 2)) >= 0:
                self.at = end + 2
            elif self.pattern[self.at] == "\\":
                if reason := self._escape():
                    return reason
            else:
                if reason := self._descending():
                    return reason
                self.at += 1
        return f"the [ at {start} has no ]"

    def _descending(self) -> str:
        """Of a range between two plain characters: whether it runs backwards."""
        ends = self.pattern[self.at : self.at + 3]
        if len(ends) == 3 and ends[1] == "-" and ends[2] not in "]\\[" and ends[0] > ends[2]:
            return f"the range {ends} at {self.at} runs backwards"
        return ""

    def _escape(self) -> str:
        start = self.at
        char = self.pattern[start + 1 : start + 2]
        if not char:
            return "it ends in a single backslash"
        if char == "Q":
            end = self.pattern.find("\\E", start + 2)
            self.at = len(self.pattern) if end < 0 else end + 2
            # An empty quotation adds nothing: what stood before it is still what a repetition would repeat.
            self.operand = self.operand or self.at > start + 4
            return ""
        if char in "123456789" and (char in "89" or self.pattern[start + 2 : start + 3] not in tuple("01234567")):
            return f"the \\{char} at {start} is a back-reference, which RE2 does not have"
        if char not in _ESCAPES and (char.isalpha() or not char.isascii()):
            return f"the \\{char} at {start} is not an escape of RE2's"
        self.at, self.operand = start + 2, True
        return ""
