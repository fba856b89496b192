"""Which training records are used: those that say something, and a chosen share of them."""

from sft.data.records import Record

# Answers that stand for none, in small letters. The Alpaca data has the last two.
NOTHING = frozenset(("", "n/a", "<noinput>", "<nooutput>"))


def is_empty(record: Record) -> bool:
    """Whether the answer of a record says nothing: blank, `N/A`, `<noinput>` or `<nooutput>`."""
    return record.output.strip().casefold() in NOTHING
