"""Another name for `python -m sft.convert`, which reads the book's .pth files."""

from sft.command import command
from sft.convert import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    command(main)
