"""Messages about a file that is not JSON: its likely format, and the remedy."""

import re
from collections.abc import Iterable

# The first bytes of binary formats, from each format's specification, and the way to JSON.
BINARY = {
    b"\x1f\x8b": "gzip-compressed; unpack it first (gunzip)",
    b"PK\x03\x04": "a zip archive or an Excel file; unpack it, or save the sheet as CSV",
    b"\x28\xb5\x2f\xfd": "zstd-compressed; unpack it first (unzstd)",
    b"BZh": "bzip2-compressed; unpack it first (bunzip2)",
    b"\xfd7zXZ\x00": "xz-compressed; unpack it first (unxz)",
    b"SQLite format 3\x00": "an SQLite database; write the table's rows as JSON",
    b"%PDF-": "a PDF file; a JSON array of records is expected",
    b"\x80\x04": "a Python pickle; write the records as JSON",
    b"\x80\x05": "a Python pickle; write the records as JSON",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
}

CUT = "is the file cut short?"
YAML = "it looks like YAML; write its records as a JSON array"
CONVERT = "save the file as UTF-8, or convert it: iconv -f WINDOWS-1252 -t UTF-8"
LFS = "version https://git-lfs.github.com/spec/"
CONSTANT = re.compile(r"(None|True|False)\b")
KEY = re.compile(r"[\w\"' -]{1,40}:(\s|$)")


def binary_format(content: bytes) -> str | None:
    """Name the format of a binary file, and say what to do; None if it is not known."""
    for start, described in BINARY.items():
        if content.startswith(start):
            return described
    return None


def not_utf8(lines: Iterable[bytes]) -> str:
    """Name the first byte of a text that is not UTF-8 by its line and place, and say what to do."""
    for number, line in enumerate(lines, 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            place = f"not UTF-8 text at line {number}, byte {error.start + 1} of it"
            if error.reason == "unexpected end of data":
                return f"{place}: a letter is incomplete; {CUT} If not, {CONVERT}"

            before = line[: error.start].decode().lstrip("\ufeff")[-20:].strip()
            after = f" after {before!r}" if before else ""
            byte = line[error.start]
            windows = bytes([byte]).decode("cp1252", errors="replace")
            return f"{place}: 0x{byte:02X}{after} ({windows!r} in Windows-1252); {CONVERT}"
    return "not UTF-8 text; save it as UTF-8"


def looks_like(text: str, at: int) -> str:
    """Name the fault of a text that stops being JSON at character `at`, and the remedy.

    Args:
        text: the whole text, or the broken line of JSON Lines.
    """
    other_format = _other_format(text.lstrip("\ufeff").lstrip())
    return other_format or _fault(text, at) or "correct it there, and try again"


def _other_format(text: str) -> str | None:
    """Name the format of a text that does not even begin as JSON; None if it does."""
    first = text.partition("\n")[0].rstrip()
    if "\0" in text[:200]:
        return "it looks like UTF-16 text or a binary file; save it as UTF-8"
    if text.startswith(LFS):
        return "it is a Git LFS pointer, not the file itself; get that with `git lfs pull`"
    if re.match(r"<(!doctype html|html|head|body)\b", text, re.IGNORECASE):
        return (
            "it looks like a web page (HTML), such as a log-in or an error page; "
            "download the file itself"
        )
    if text.startswith("<"):
        return "it looks like XML; write its records as a JSON array"
    if text.startswith(("[", "{")):
        return None
    # A file of YAML may begin with comments.
    below = re.sub(r"\A(\s*#.*\n)+\s*", "", text)
    if below != text and KEY.match(below):
        return YAML
    if text.startswith(("//", "/*", "#")):
        return "it looks like a comment, which JSON does not have; remove it"
    if re.match(r"(---|%YAML|- )", text) or KEY.match(first):
        return YAML
    for separator, name in (("\t", "TSV"), (",", "CSV"), (";", "CSV")):
        if separator in first:
            ending = f".{name.lower()}"
            return f"it looks like a table ({name}); give the file a name that ends in {ending}"
    return "it looks like plain text; a JSON array of records, or JSON Lines, is expected"


def _fault(text: str, at: int) -> str | None:
    """Name the fault at a place in JSON; None if it is not a usual one."""
    before = text[:at].rstrip()
    after = text[at:].lstrip()
    if after.startswith(("//", "/*", "#")):
        return "there is a comment, which JSON does not have; remove it"
    if before.endswith(",") and after.startswith(("]", "}", ",")):
        return "there is a comma too many before it; remove that"

    # Where a key should follow the comma, Python's parser gives the place of the comma itself.
    if after.startswith(",") and after[1:].lstrip().startswith(("]", "}", ",")):
        return "there is a comma too many; remove it"

    if after.startswith("'") or CONSTANT.match(after):
        return "it looks like Python, not JSON; write the records with json.dump"
    if after.startswith(("“", "”", "„", "‘", "’")):
        return 'there is a curly quotation mark; JSON has only the straight one, "'

    # The text ends in an escape, or in a string.
    if re.search(r"\\(u[0-9a-fA-F]{0,4})?$", text[-8:]) and at > len(text) - 8:
        return CUT
    if not after or (
        after.startswith('"') and '"' not in re.sub(r"\\.", "", after[1:], flags=re.DOTALL)
    ):
        return CUT

    if after.startswith(",") and before.endswith("}"):
        return "JSON Lines has no commas at the ends of lines; remove them"
    if text[at] < " ":
        return "a line end or a tab within a text is written as \\n or \\t"
    if after.startswith("\\"):
        return "a backslash within a text is written as two"
    if before.endswith(("]", "}")) and after.startswith(("[", "{")):
        return (
            "there is no comma between the two; "
            "or, if each is a JSON document, write one object a line (JSON Lines)"
        )
    if re.match(r"[A-Za-z_]\w*\s*:", after):
        return "the key has no quotation marks; JSON needs them"
    return None
