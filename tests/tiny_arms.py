"""Arms by the flat keys that a study file has, with values that no study file could give too."""

from dataclasses import fields, replace

from goodhart.alignment.method import Method
from goodhart.recipes.arm import Arm

SLOTS = {field.name for field in fields(Method)}


def arm(**keys):
    """An arm; what is a slot of the method goes there."""
    slots = {key: value for key, value in keys.items() if key in SLOTS}
    return Arm(Method(**slots), **{key: value for key, value in keys.items() if key not in SLOTS})


def changed(one, **keys):
    """The arm with other values of some flat keys."""
    slots = {key: value for key, value in keys.items() if key in SLOTS}
    rest = {key: value for key, value in keys.items() if key not in SLOTS}
    return replace(one, method=replace(one.method, **slots), **rest)
