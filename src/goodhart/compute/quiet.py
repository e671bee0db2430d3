"""What libraries say of themselves, silenced."""

from __future__ import annotations


def quiet() -> None:
    """No progress bars and no warnings of Transformers in this process: a study has a screen of its own."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
