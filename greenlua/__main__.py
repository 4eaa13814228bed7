"""``python -m greenlua``."""

from greenlua.cli import main

main(prog_name="greenlua")
