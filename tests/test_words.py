"""The words of the documentation, docstrings, comments and messages: plain technical English."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PLACES = {
    "README.md": "",
    "CONTRIBUTING.md": "",
    "SECURITY.md": "",
    "docs": "md",
    "configs": "yaml",
    "sweeps": "yaml",
    "cmu_lightning": "py",
    "benchmarks": "py",
}

# Words that are refused, why, and what to write instead. A space in a pattern matches a line break, too.
STYLE = (
    (r"mend(s|ed|ing)?", "archaic", "fix, repair"),
    (r"anew|afresh", "archaic", "again, a new ..."),
    (r"beside", "archaic", "next to, with, compared with; `on a machine shared with other work`"),
    (r"besides", "bookish", "in addition to, also"),
    (r"(go|goes|going|gone|went) on", "archaic", "continue, resume, pass on"),
    (r"(?<!left\s)(?<!leave\s)(?<!leaves\s)(?<!leaving\s)(?<!let\s)alone", "archaic", "only, by itself"),
    (r"amongst|ere|heretofore|hither|lest|nought|thereof|therein|upon|whereof|wherein|whilst", "archaic", "plain word"),
    (r"[,;:] for (he|it|no|nobody|nothing|she|that|there|these|they|this|those|we) \w+", "archaic", "because"),
    (r"(all|everything) but|, but for", "archaic", "all except, except for, only"),
    (r"one's own", "stilted", "your own, custom"),
    (r"(class|file|folder|group|method|one|ones|part|process|row|run|runs|seed|seeds|split|thread) of (its|their) own",
     "stilted", "its own ..., a separate ..."),
    (r"(as|leave it as|stay as) (it|they) (is|are)(?! \w)", "stilted", "unchanged"),
    (r"as (it|they) (is|are) now", "stilted", "current"),
    (r"in the place of", "stilted", "instead of"),
    (r"otherwise than|(predicted|sums|decided|called) otherwise", "stilted", "differently"),
    (r"what (ascends|dampens|fine-tunes|relabels|retrains|trains)", "a clause for a noun", "dampening methods, ..."),
    (r"what (came|comes) of|what became of|what is (there|said)", "a clause for a noun", "result, outcome"),
    (r"(come|comes|came) about", "vague", "S_f is found, numbers are computed"),
    (r"(is|are|was|were|be) told(?! (apart|from))", "code hears nothing", "receives, is given"),
    (r"who (says|never|gives|learns)|whoever", "a model is no person", "a model that ..."),
    (r"nobody (can|knows|may|means|asks|need)", "vague", "unknown, cannot be ..."),
    (r"takes? (hold|part)|t(akes?|ook) (the|its|their) place", "idiom", "is learned, joins, replaces"),
    (r"do(es)? no harm|did no harm", "idiom", "is harmless, does not lower accuracy"),
    (r"trigger at work|methods at work", "idiom", "active"),
)  # fmt: skip

PATTERNS = [
    (
        re.compile(rf"(?:(?<![\w-])|(?=[,;:]))(?:{words.replace(' ', chr(92) + 's+')})(?![\w-])", re.IGNORECASE),
        why,
        instead,
    )
    for words, why, instead in STYLE
]


def _hide(text: str) -> str:
    """Return a text of the same lines and length without words."""
    return re.sub(r"\S", "·", text)


def _markdown(source: str) -> str:
    """Return a page without its code and the targets of its links, every word at its place."""
    return re.sub(r"(?ms)^```.*?^```|``.+?``|`[^`]+`|\]\([^)\s]+\)", lambda code: _hide(code[0]), source)


def _yaml(source: str) -> str:
    """Return the comments of a YAML file, every word at its place."""
    parts = (re.split(r"(?:^|(?<=\s))#", line, maxsplit=1) for line in source.split("\n"))
    return "\n".join(" ".join([_hide(code), *comment]) for code, *comment in parts)


def _python(source: str) -> str:
    """Return the docstrings, the comments and the texts of a module, every word at its place."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    prose = list(_hide(source))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind, text = tokenize.tok_name[token.type], token.string
        if kind == "STRING" and not re.search(r"\s", text):
            continue  # a name or a key
        if kind in ("COMMENT", "STRING", "FSTRING_START", "FSTRING_MIDDLE", "FSTRING_END"):
            text = re.sub(r"`[^`]+`|\{[^{}]*\}|(?m:^\s*(?:>>>|\.\.\.) .*$)", lambda code: _hide(code[0]), text)
            text = re.sub(r"^(?:#|[rbf]{0,2}\"+)|\"+$", lambda mark: " " * len(mark[0]), text, flags=re.IGNORECASE)
            first = starts[token.start[0] - 1] + token.start[1]
            prose[first : first + len(text)] = text
    return "".join(prose)


READERS = {".md": _markdown, ".yaml": _yaml, ".py": _python}


def _findings(prose: str) -> Iterator[tuple[int, str]]:
    """Yield each refused expression of a text: its line, and a sentence on what to write instead."""
    for pattern, why, instead in PATTERNS:
        for found in pattern.finditer(prose):
            line = prose.count("\n", 0, found.start()) + 1
            yield line, f"{' '.join(found[0].split())!r} ({why}): write {instead}"


@pytest.mark.parametrize("place", PLACES)
def test_words_are_plain(place):
    files = sorted((ROOT / place).rglob(f"*.{PLACES[place]}")) or [ROOT / place]
    said = [
        f"{path.relative_to(ROOT)}:{line}: {sentence}"
        for path in files
        for line, sentence in sorted(_findings(READERS[path.suffix](path.read_text("utf-8"))))
    ]
    assert not said, "\n".join(["", *said])


@pytest.mark.parametrize(
    ("suffix", "source", "expected"),
    [
        (".md", "It goes\non.\n\n`goes on`\n\n```\ngoes on\n```\n\n[it](goes/on.md) beside", [1, 10]),
        (".yaml", "a: beside  # It goes\n# on.\nb: '#beside'\n", [1]),
        (".py", '"""Runs beside."""\n\nbeside = "beside"  # goes\n# on\n', [1, 3]),
        (".py", 'raise Error(\n    f"{beside} goes "\n    f"on, `anew` {beside}, " "anew"\n)\n', [2]),
        (".py", 'def f():\n    """Return it.\n\n    >>> beside(1)\n    """\n', []),
        (".md", "It is left alone, for them, as it is called.", []),
        (".md", "The sum is 1, for there are\ntwo alone.", [1, 2]),
    ],
)
def test_only_text_is_checked(suffix, source, expected):
    assert sorted(line for line, _ in _findings(READERS[suffix](source))) == expected
