"""Each message that the troubleshooting page quotes is one that the program can say."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")

# What stands in a text for a value: of %-formatting, of JavaScript's templates.
_VALUE = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?[srdgfex]|\$\{[^}]*\}")
_ANY = "\0"


def quoted(page):
    """What stands in backticks in the first cell of each row of a table."""
    cells = re.findall(r"^\| (.*?) \|", page, re.MULTILINE)
    return [fragment for cell in cells for fragment in re.findall(r"`([^`]+)`", cell)]


def said(tree):
    """Texts of a module but its docstrings, adjacent literals joined, with a mark for each value."""
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant() if node in docstrings:
                continue
            case ast.JoinedStr(values):
                yield "".join(
                    str(one.value) if isinstance(one, ast.Constant) else _ANY for one in values
                )
            case ast.Constant(str(text)):
                yield _VALUE.sub(_ANY, text)


def all_texts():
    package = ROOT / "live_restore"
    texts = [text for file in package.rglob("*.py") for text in said(ast.parse(file.read_bytes()))]
    pages = [file.read_text(encoding="utf-8") for file in package.rglob("*.js")]
    return texts + [_VALUE.sub(_ANY, line) for page in pages for line in page.splitlines()]


TEXTS = all_texts()
FRAGMENTS = quoted(PAGE)


def can_be_said(fragment):
    """All parts of a fragment stand in one text, in this order."""
    parts = [part.strip() for part in fragment.split("…")]
    expression = re.compile(".*?".join(re.escape(part) for part in parts if part), re.DOTALL)
    return any(expression.search(text) for text in TEXTS)


def test_the_page_quotes_messages():
    assert len(FRAGMENTS) > 200


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_a_quoted_message_can_be_said(fragment):
    assert can_be_said(fragment), f"no text under live_restore/ has {fragment!r}"


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("profile …: can't be read: …", True),
        ("waits for its last plane: …", True),
        ("profile …: can't be eaten: …", False),
        ("can't be read: … profile", False),
    ],
)
def test_only_what_is_said_counts(fragment, expected):
    assert can_be_said(fragment) is expected
