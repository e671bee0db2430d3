"""What can be told of a study before its first cell, from its models' files and its data."""

from __future__ import annotations

from pathlib import Path

from goodhart.models.checkpoint import find
from goodhart.recipes.settings import PREFERENCES
from goodhart.studies.check_data import check_label_files, check_pool, check_supply, supply, supply_of
from goodhart.studies.check_models import check_models, models
from goodhart.studies.named_functions import try_functions
from goodhart.studies.spec import Study
from goodhart.tasks.data_source import Say, unheard


def check(study: Study, prepared: Path | None = None, say: Say = unheard) -> None:
    """Raises GoodhartError for models that do not fit the study or one another, and for too few data.

    No model is loaded. Preference data are read once, and tokenised as far as the study needs them; `prepared` is the
    folder of their finished cell, where there is one, and `say` is told how far the reading has come.
    """
    try_functions(study)
    check_label_files(study)
    folders = {key: Path(find(name).path) for key, name in models(study).items()}
    check_models(study, folders)
    if study.task.kind == PREFERENCES:
        check_supply(study, supply_of(prepared) if prepared else supply(study, folders["policy"], say))
    else:
        check_pool(study)
