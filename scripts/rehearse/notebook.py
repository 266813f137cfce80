"""Executes one notebook in its own folder and writes the executed copy: `python -m rehearse.notebook IN
OUT`."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def main(argv: list[str]) -> int:
    """Exit 1 with the failed cell and its error when a cell fails."""
    source, out = Path(argv[0]), Path(argv[1])
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(
        notebook, timeout=540, kernel_name="python3", resources={"metadata": {"path": str(source.parent)}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        print(str(error)[-3000:])
        return 1
    finally:
        nbformat.write(notebook, out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
