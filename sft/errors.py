"""The one kind of error that the user sees as a single line, and how it writes numbers."""


class InputError(Exception):
    """An input from the user, or from the outside world, that cannot be used.

    The message is one line: what was wrong, where (file, record, key), what was expected and what
    to do. The doors print it without a traceback. A message that quotes a long text loses its
    middle.
    """

    def __init__(self, message: str) -> None:
        if len(message) > 1500:
            message = f"{message[:1000]} … {message[-400:]}"
        super().__init__(message)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, as in "1 record" or "1,200 records"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
