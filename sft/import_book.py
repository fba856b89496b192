"""Another name for `python -m sft.convert`, which reads the book's .pth files."""

from sft.convert import main, parser
from sft.launch import command

__all__ = ["main", "parser"]

if __name__ == "__main__":
    command(main)
