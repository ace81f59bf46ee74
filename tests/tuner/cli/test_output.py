"""What commands print is text: names and paths may have brackets."""

import subprocess
import sys

PRINTS = """
from rich.table import Table
from tuner.cli.output import stderr, stdout
table = Table("name")
table.add_row("{text}")
for console in (stdout(), stderr()):
    console.print("{text}")
    console.print(table)
"""


def test_brackets_are_printed_and_not_read():
    """Rich would take them for its markup: eat the first, and end in an exception at the second."""
    text = "out[bold]/w[/x]"
    done = subprocess.run([sys.executable, "-c", PRINTS.format(text=text)], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert (done.stdout.count(text), done.stderr.count(text)) == (2, 2)
