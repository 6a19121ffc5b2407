"""Kinds of arguments that several commands take: each function reads one, for argparse's `type`.

A ValueError is what argparse turns into its complaint and exit status 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def count(text: str) -> int:
    """A number from 1 on."""
    if (value := int(text)) < 1:
        raise ValueError
    return value


def share(text: str) -> float:
    """A number above 0 and at most 1."""
    if not 0 < (value := float(text)) <= 1:
        raise ValueError
    return value


def parquet(text: str) -> Path:
    """The name of a Parquet file: tables are written in no other format."""
    if (file := Path(text)).suffix.lower() != ".parquet":
        raise argparse.ArgumentTypeError(f"{text}: is written as Parquet; name a file so")
    return file
