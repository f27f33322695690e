"""Write a sweep file from a configuration of LibFewShot.

python -m orchestrator.import_config LibFewShot/reproduce/R2D2/NAME.yaml -o r2d2.yaml

The sweep file has the method, backbone, way, shot and queries, episodes, epochs, optimiser, schedule, augmentation and
images. What could not be mapped is listed with the reason, at the top of the file too. `includes` are read from
LibFewShot's folder `config`, around or above the configuration, or from --config. Nothing in the files is executed.

Exit status: 0, or 2 for a mistake or a configuration that cannot be had here.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dmf.machine.files import write_text
from dmf.machine.output import run
from dmf.machine.paths import path_option
from dmf.machine.trouble import sentence
from dmf.values import printable
from orchestrator.import_config.configuration import Unmapped, read_configuration
from orchestrator.import_config.translate import sweep_of
from orchestrator.spec.file import FLOAT, INTEGER, spec_from
from orchestrator.text import complain, say

WIDTH = 120


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        given = read_configuration(options.configuration, options.config)
        sweep = sweep_of(given, options.name or _name(options.configuration))
        spec_from(sweep, f"the sweep from {options.configuration}")
        text = text_of(sweep, given.unmapped, options.configuration.name)
        if options.output is not None:
            write_text(options.output, text)
    except (ValueError, OSError) as error:
        complain(f"error: {sentence(error, {'--output': options.output} if options.output else {})}")
        return 2
    if options.output is None:
        say(text.rstrip("\n"))
    else:
        say(f"{options.output}: {sweep['about']}; see python -m orchestrator.sweep {options.output} --plan")
    for each in given.unmapped:
        complain(f"not mapped: {printable(str(each))}")
    return 0


def text_of(sweep: dict[str, Any], unmapped: Sequence[Unmapped], source: str) -> str:
    """The sweep file, with what was not mapped in the comment at its top."""
    lines = [f"From {source} of LibFewShot by `python -m orchestrator.import_config`."]
    lines += ["Not mapped:", *(f"- {each}" for each in unmapped)] if unmapped else []
    wrapped = [
        part
        for line in lines
        for part in textwrap.wrap(
            printable(line), WIDTH - 2, subsequent_indent="  " if line.startswith("- ") else "", break_on_hyphens=False
        )
    ]
    comment = "".join(f"# {line}\n" for line in wrapped)
    return comment + yaml.dump(sweep, Dumper=_Dumper, sort_keys=False, width=WIDTH, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes text that a sweep file would read as a number of YAML 1.2, such as 1e3."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        number = INTEGER.fullmatch(data) or FLOAT.fullmatch(data)
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if number else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def _name(path: Path) -> str:
    """The sweep's name, from that of the file."""
    return re.sub("[^a-z0-9]+", "_", path.stem.lower()).strip("_")[:100] or "imported"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.import_config",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("configuration", type=path_option, help="a YAML file of LibFewShot")
    parser.add_argument("-o", "--output", type=path_option, help="the sweep file to write (standard output)")
    parser.add_argument(
        "--config", type=path_option, help="LibFewShot's folder `config`, which has what the file includes"
    )
    parser.add_argument("--name", help="the sweep's name (that of the file)")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
