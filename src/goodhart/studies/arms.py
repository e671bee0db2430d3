"""What a study's arms need of one another: streams, writers, mixtures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from goodhart.errors import GoodhartError
from goodhart.recipes.arm import KEYED, SFT_WRITER, Arm, settings_of, written_by
from goodhart.recipes.slots import records


def validate_arms(arms: Mapping[str, Arm], variants: Collection[str]) -> None:
    """Raises GoodhartError for an arm that has no meaning alone or beside the others."""
    for name, arm in arms.items():
        arm.validate(name)
        if arm.variant and arm.variant not in variants:
            known = ", ".join(variants) or "none"
            raise GoodhartError(f"arm {name!r} has variant {arm.variant!r}, which the study has not", f"known: {known}")
        if arm.method.source == "stream":
            _validate_stream(name, arm, arms)
        for writer in arm.writers:
            _validate_writer(name, arm, writer, arms)
        if arm.start:
            _validate_start(name, arm, arms)
        if arm.method.source == "mixture":
            _validate_parts(name, arm, arms)
        _validate_read(name, arms)


def _validate_read(name: str, arms: Mapping[str, Arm]) -> None:
    """Nothing is known of how an adopted policy was trained, and its files may be of any seed."""
    for other in with_what_they_read(arms, [name]) - {name}:
        if other in arms and arms[other].checkpoint:
            raise GoodhartError(
                f"arm {name!r} reads the run of {other!r}, which is a checkpoint that the study has not trained",
                "name an arm that is trained",
            )


def _validate_stream(name: str, arm: Arm, arms: Mapping[str, Arm]) -> None:
    recorded = arms.get(arm.stream)
    if recorded is None or not records(recorded.method):
        known = ", ".join(other for other, each in arms.items() if records(each.method)) or "none"
        raise GoodhartError(
            f"arm {name!r} replays {arm.stream!r}, which is no arm that samples pairs from its policy",
            f"name one of: {known}",
        )
    if arm.window and (arm.batch != recorded.batch or arm.steps > recorded.steps):
        raise GoodhartError(
            f"arm {name!r} asks for {arm.steps} batches of {arm.batch}, but {arm.stream!r} leaves {recorded.steps} "
            f"of {recorded.batch}",
            "give it the same batch and no more steps, or window: 0",
        )
    if (arm.method.reduction, arm.variant) != (recorded.method.reduction, recorded.variant):
        raise GoodhartError(
            f"arm {name!r} has reduction {arm.method.reduction} and variant {arm.variant!r}, {arm.stream!r} has "
            f"{recorded.method.reduction} and {recorded.variant!r}",
            "a stream keeps its reference log-probabilities; give both the same",
        )
    _validate_setting(name, arm, arm.stream, recorded)


def _validate_setting(name: str, arm: Arm, other: str, recorded: Arm) -> None:
    mine, theirs = ({setting for setting, _ in settings_of(each)} for each in (arm, recorded))
    if not mine <= theirs:
        raise GoodhartError(
            f"arm {name!r} has a beta or lr that {other!r} has not, or another sweep, or no beta where it has one",
            "a stream is replayed at the setting that it was recorded at",
        )


def _validate_writer(name: str, arm: Arm, writer: str, arms: Mapping[str, Arm]) -> None:
    if writer == SFT_WRITER:
        return
    try:
        author, step = written_by(writer)
    except ValueError as error:
        raise GoodhartError(f"arm {name!r} has writer {writer!r}", "write sft or ARM@STEP, as online@30") from error
    if author not in arms or any(
        arms[each].method.source == "samples" for each in (author, *arms[author].parts) if each in arms
    ):
        raise GoodhartError(f"arm {name!r} has writer {writer!r}", "name an arm of this study that has no writers")
    if step not in arms[author].kept:
        steps = ", ".join(map(str, arms[author].kept))
        raise GoodhartError(f"arm {name!r} has writer {writer!r}", f"checkpoints of {author!r} are at steps {steps}")
    if arms[author].variant != arm.variant:
        raise GoodhartError(f"arm {name!r} and its writer {author!r} have different variants", "give them the same")


def _validate_start(name: str, arm: Arm, arms: Mapping[str, Arm]) -> None:
    try:
        author, step = written_by(arm.start)
    except ValueError as error:
        raise GoodhartError(f"arm {name!r} has start {arm.start!r}", "write ARM@STEP, as offline@30") from error
    begun = arms.get(author)
    if begun is None or begun.start or begun.writers or begun.variant != arm.variant:
        raise GoodhartError(
            f"arm {name!r} has start {arm.start!r}",
            "name an arm of this study and of the same variant that begins at the SFT policy and has no writers",
        )
    if step not in begun.kept:
        raise GoodhartError(
            f"arm {name!r} has start {arm.start!r}", f"checkpoints of {author!r} are {', '.join(map(str, begun.kept))}"
        )


def _validate_parts(name: str, arm: Arm, arms: Mapping[str, Arm]) -> None:
    for other in arm.parts:
        part = arms.get(other)
        if part is None or part.method.source == "mixture" or part.method.refresh != 1:
            raise GoodhartError(
                f"arm {name!r} mixes {other!r}",
                "name arms of this study that are no mixtures and whose policy samples without delay",
            )
        if part.sampler != KEYED:
            raise GoodhartError(
                f"arm {name!r} mixes {other!r}, which has sampler {part.sampler!r}",
                "leave its sampler out: what a mixture draws is the built-in sampler's",
            )
        if (part.method.reduction, part.variant) != (arm.method.reduction, arm.variant):
            raise GoodhartError(f"arms {name!r} and {other!r} differ in reduction or variant", "give them the same")
        if part.method.source == "stream":
            _validate_setting(name, arm, other, part)
    sizes = shares_of(arm)
    if min(sizes.values()) < 1:
        raise GoodhartError(f"a part of arm {name!r} has no pair in a batch of {arm.batch}", "raise batch or its share")


def shares_of(arm: Arm) -> dict[str, int]:
    """Pairs of every batch by part: the shares rounded down, and the rest to the largest remainders."""
    exact = {part: share * arm.batch for part, share in arm.parts.items()}
    sizes = {part: int(size + 1e-9) for part, size in exact.items()}
    order = sorted(exact, key=lambda part: sizes[part] - exact[part])
    for part in order[: arm.batch - sum(sizes.values())]:
        sizes[part] += 1
    return sizes


def with_what_they_read(arms: Mapping[str, Arm], names: Iterable[str]) -> set[str]:
    """The named arms and all whose runs they replay, mix or let write."""
    result: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in result:
            continue
        result.add(name)
        if name in arms:
            arm = arms[name]
            writers = [written_by(writer)[0] for writer in arm.writers if writer != SFT_WRITER]
            begun = [written_by(arm.start)[0]] if arm.start else []
            waiting += [*([arm.stream] if arm.stream else []), *writers, *begun, *arm.parts]
    return result
