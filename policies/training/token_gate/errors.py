"""The one error of this folder: what went wrong, where, and what to do about it."""

from __future__ import annotations


class TrainingError(Exception):
    """The gate cannot be trained like this; the message is for the person at the terminal."""
