"""The command ``rivegs``. Subcommands import what they need when called, so that help and scores are quick."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rivegs_mllm.cli.commands.data import add_audit, add_build
from rivegs_mllm.cli.commands.distill import add_distill
from rivegs_mllm.cli.commands.evaluate import add_calibrate, add_evaluate, add_report
from rivegs_mllm.cli.commands.exporting import add_export
from rivegs_mllm.cli.commands.importing import add_import
from rivegs_mllm.cli.commands.memory import add_memory
from rivegs_mllm.cli.commands.models import add_compare, add_predict, add_preview, add_propose, add_train
from rivegs_mllm.cli.commands.recipe import add_recipe
from rivegs_mllm.cli.commands.rehearse import add_rehearse
from rivegs_mllm.cli.commands.runs import add_runs
from rivegs_mllm.cli.commands.starting import add_data_command, add_init
from rivegs_mllm.cli.commands.trained.release import add_merge, add_push
from rivegs_mllm.cli.commands.trained.serve import add_serve
from rivegs_mllm.cli.commands.trained.try_post import add_try
from rivegs_mllm.config.check import UnknownKeyError
from rivegs_mllm.config.reading.command_line import Parser, Version, did_you_mean
from rivegs_mllm.runtime.logs import (
    FLAGS_HELP,
    escape_on_console,
    missing_extra,
    quiet_unless_verbose,
    take_flags,
    tell_error,
)
from rivegs_mllm.types import UserError

OVERVIEW = f"""\
Grounded multimodal named entity recognition: the entities of posts, their types, and where the picture shows them.

from data to scores:
  rivegs build emblems --out data/emblems --seed 0       build the generated benchmark
  rivegs import FORMAT FILE --out data/mine              or take over your own annotations, of many formats
  rivegs data data/emblems                               what is in it
  rivegs audit data/emblems                              check it before training
  rivegs init --data data/mine                           a recipe for it
  rivegs memory RECIPE                                   what training needs on each GPU
  rivegs rehearse RECIPE                                 try a run of GPUs without one: steps, data, memory, time
  rivegs recipe RECIPE                                   a recipe with its bases, and which file sets what
  rivegs preview RECIPE --out preview.html               what the model will be given
  rivegs train RECIPE                                    fine-tune on one device; on several with accelerate launch
  rivegs runs                                            which runs there are, with their scores; in what two differ
  rivegs try "TEXT" --image FILE --model RUN             the entities of one post
  rivegs serve RUN                                       an HTTP API, and a page to try it
  rivegs predict RECIPE --data data/emblems --split test --out predictions.jsonl
  rivegs evaluate data/emblems predictions.jsonl         score them; --explain adds an error analysis
  rivegs evaluate data/emblems old.jsonl new.jsonl       difference between systems, and its significance
  rivegs report data/emblems predictions.jsonl --out report.html
  rivegs export FORMAT data/emblems --out DIR            for COCO's tools, Label Studio, FiftyOne and others
  rivegs compare RECIPE RECIPE ... --data data/emblems --out runs/compare    several systems in one table
  rivegs propose RECIPE --data data/emblems --out runs/regions               region proposals
  rivegs merge RUN --out DIR                             an adapter merged into its base, for use elsewhere
  rivegs push RUN ORG/NAME                               a trained model with its card to the hub
  rivegs distill RECIPE --dry-run                        annotate posts by an LLM; --dry-run: what it would cost

RECIPE is a YAML file of recipes/; --section.field=value behind it overrides what it says.
`rivegs COMMAND --help` tells more. {FLAGS_HELP} The file formats are described in docs/format.md."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand. Returns 0, 1 where an audit found errors, 2 for a user's mistake, 130 when interrupted, 141
    where nobody reads the output any more."""
    escape_on_console()
    parser = _parser()
    own, flags = take_flags(sys.argv[1:] if arguments is None else arguments)
    known, rest = parser.parse_known_args(own)
    if not known.parser.takes_overrides:
        known.parser.refuse_rest(rest)
    try:
        quiet_unless_verbose(flags)
        code = known.run(known, rest) or 0
        _flush_output()
        return code
    except BrokenPipeError:  # whoever read the output, such as head, has had enough
        _discard_output()
        return 141
    except UnknownKeyError as error:
        others = [own for own in known.parser.options if own != "--help"]
        option = did_you_mean(f"--{error.key}", others) if "." not in error.key else ""
        tell_error(UserError(f"{error}{option}"), flags)
    except (UserError, OSError) as error:
        try:
            _flush_output()
        except OSError:  # it goes to a full disk; at its end Python would try again, and say so in its own way
            _discard_output()
        tell_error(error, flags)
    except ImportError as error:
        tell_error(missing_extra(error), flags)
    except KeyboardInterrupt:
        print("interrupted; started again, most commands resume", file=sys.stderr)
        return 130
    return 2


def _flush_output() -> None:
    if sys.stdout is not None:  # None where the caller has closed it, as some schedulers do
        sys.stdout.flush()


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> Parser:
    parser = Parser(
        prog="rivegs",
        description=OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=Version, help="print the version and end")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        add_build,
        add_import,
        add_data_command,
        add_audit,
        add_init,
        add_recipe,
        add_memory,
        add_rehearse,
        add_preview,
        add_distill,
        add_train,
        add_runs,
        add_try,
        add_serve,
        add_predict,
        add_evaluate,
        add_calibrate,
        add_report,
        add_compare,
        add_export,
        add_propose,
        add_merge,
        add_push,
    ):
        add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
