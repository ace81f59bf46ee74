"""What commands print is text: names and paths may have brackets."""

import subprocess
import sys

from rich.console import Console

from tuner.cli.look import _print_overview

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


def test_a_table_in_a_pipe_keeps_long_names_whole():
    """They are asked for by other commands; a table is cut to 80 columns where there is no terminal."""
    name = "moe_" + "x" * 200
    done = subprocess.run([sys.executable, "-c", PRINTS.format(text=name)], capture_output=True, encoding="utf-8")
    assert done.stdout.count(name) == 2


def test_a_list_of_sweeps_in_a_terminal_folds_names_instead_of_cutting_them(monkeypatch, capsys):
    """A newcomer reads there what to ask `tuner best` for."""
    console = Console(width=80)
    monkeypatch.setattr("tuner.cli.look.stdout", lambda: console)
    name = "moe_fp8_block_scale_ds_routing_topk4_ng4_kg2_e8_h512_i256"
    sweep = {
        "id": 1, "state": "DONE", "definition": name, "space": "moe_fp8_cpu", "hardware": "AMD EPYC", "trials": 64,
        "started_at": None,
    }  # fmt: skip
    _print_overview({"sweeps": [sweep, sweep | {"started_at": "2026-11-30T14:27:03+00:00"}]})
    rows = [[cell.strip() for cell in line.split("\u2502")] for line in capsys.readouterr().out.splitlines()]
    assert "".join(cells[3] for cells in rows if len(cells) > 3) == 2 * name
