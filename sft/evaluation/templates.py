"""Template sensitivity: the same model, asked the same records in other prompt templates.

The model learned one template, and its numbers are of that one. How far they move in other wordings
is kept apart, in `templates/` of the evaluation's folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sft.atomic import make_folder, write_json
from sft.config.schema import EvaluateConfig
from sft.data.prompt import same_prompts
from sft.data.records import Record
from sft.dataclass_json import to_json
from sft.errors import InputError
from sft.evaluation.answers import AnswerFile, Decoding
from sft.evaluation.measure import EncodedRecords, encode_records, load_and_measure
from sft.evaluation.results import answer_results
from sft.evaluation.setup import Setup
from sft.metrics import METRICS
from sft.prompts import PROMPTS
from sft.scoring.aggregate import differences, not_asked_text, numbers
from sft.scoring.results import AnswerResult, MetricDifference
from sft.scoring.statistics import Interval

# The name of the model's own template in the table.
OWN = "its own"

# The metrics of an answer without a judge, which is not asked about these answers.
SHOWN = [metric for metric in METRICS if metric.name != "score"]


@dataclass(frozen=True)
class Wording:
    """A template, and the records in it.

    Attributes:
        name: as it was given.
    """

    name: str
    template: str
    encoded: EncodedRecords


@dataclass(frozen=True)
class InTemplate:
    """The means of the model in one template.

    Attributes:
        template: its text.
        against_own: the differences to the model's own template; None for that one.
    """

    template: str
    means: dict[str, float | None]
    intervals: dict[str, Interval | None]
    not_asked: dict[str, int]
    never_stopped: int
    against_own: dict[str, MetricDifference] | None


@dataclass(frozen=True)
class Sensitivity:
    """The change of the numbers from template to template.

    Attributes:
        templates: by name, the model's own first.
        ranges: the lowest and the highest mean of each metric.
    """

    records: int
    templates: dict[str, InTemplate]
    ranges: dict[str, tuple[float, float]]


def read_template(name: str) -> str:
    """Return the template of this name, or the one in this file, without its last line break.

    Raises:
        InputError: there is no such template or file.
    """
    if name == "none":
        raise InputError("templates: none is for plain text, and asks no question; leave it out")
    if name in PROMPTS:
        return PROMPTS[name]
    path = Path(name).expanduser()
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, ValueError) as error:
        known = ", ".join(known for known in PROMPTS if known != "none")
        raise InputError(
            f"templates: {name} is neither a template ({known}) nor a file with one in Jinja "
            f"({error})"
        ) from error


def encode_wordings(config: EvaluateConfig, setup: Setup, records: list[Record]) -> list[Wording]:
    """Encode the records in each template that `templates=` names.

    Raises:
        InputError: a template is missing, is the model's own, or cannot ask the records.
    """
    found = []
    for name in config.templates or []:
        template = read_template(name)
        try:
            encoded = encode_records(
                name, setup.models["tuned"], records, template, setup.data, config.split
            )
        except InputError as error:
            raise InputError(f"templates: {name}: {error}") from error
        if same_prompts(template, setup.template):
            raise InputError(f"templates: {name} is the model's own; give others")
        found.append(Wording(name, template, encoded))
    return found


def measure_wordings(
    wordings: Sequence[Wording],
    template: str,
    own: Sequence[AnswerResult],
    folder: Path,
    device: str,
    decoding: Decoding,
    batch_size: int,
) -> Sensitivity:
    """Ask in each template, and write `templates.json`.

    Args:
        template: the model's own.
        own: the results in it, record by record.
        folder: for the answers and the numbers.

    Raises:
        InputError: a file cannot be written.
    """
    make_folder(folder)
    file = AnswerFile(folder / "answers.jsonl")
    templates = {OWN: _in_template(template, own, None)}
    for wording in wordings:
        result = load_and_measure(
            wording.encoded, device, decoding.precision, decoding, file, batch_size
        )
        answers = answer_results(result)
        against = differences(answers, own, (wording.name, OWN))
        templates[wording.name] = _in_template(wording.template, answers, against)

    ranges = {}
    for metric in SHOWN:
        means = [one.means[metric.name] for one in templates.values()]
        known = [mean for mean in means if mean is not None]
        ranges[metric.name] = (min(known), max(known))
    found = Sensitivity(len(own), templates, ranges)
    write_json(folder / "templates.json", to_json(found))
    return found


def _in_template(
    template: str,
    answers: Sequence[AnswerResult],
    against: dict[str, MetricDifference] | None,
) -> InTemplate:
    found = numbers(answers)
    return InTemplate(
        template,
        means=found["metrics"] | {"loss": found["loss"]},
        intervals=found["intervals"],
        not_asked=found["not_asked"],
        never_stopped=found["never_stopped"],
        against_own=against,
    )


def wordings_text(found: Sensitivity) -> str:
    """Return the means as a table, and what the differences mean."""
    last = "highest - lowest"
    width = max(len(name) for name in (*found.templates, last)) + 2
    header = "".join(f"{metric.label:>13}" for metric in SHOWN)
    lines = ["In other templates (apart from the model's numbers):", ""]
    lines.append(f"{'template':{width}}{header}{'never stopped':>15}")
    for name, one in found.templates.items():
        means = "".join(f"{_number(one.means[metric.name]):>13}" for metric in SHOWN)
        lines.append(f"{name:{width}}{means}{one.never_stopped:>15}")
    spans = [high - low for low, high in found.ranges.values()]
    lines += [f"{last:{width}}{''.join(f'{span:>13.3f}' for span in spans)}", ""]

    for name, one in found.templates.items():
        exact = (one.against_own or {}).get("exact_match")
        if exact:
            lines.append(f"{name}: exact match {exact.difference:+.3f}; {exact.verdict}")
        if one.not_asked:
            lines.append(f"{name}: not asked: {not_asked_text(one.not_asked)}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
