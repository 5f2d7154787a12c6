"""The command tree. Each command is a module that is imported only when it runs its body."""

from __future__ import annotations

from typing import Annotated

import typer

from vlood import __version__
from vlood.cli import (
    apply,
    bench,
    cache,
    calibrate,
    clean,
    collect,
    completion,
    corpora,
    demo,
    diagnose,
    doctor,
    embed,
    evaluate,
    export,
    help_,
    import_,
    listing,
    mine,
    negatives,
    pick,
    score,
    show,
    tune,
)

EPILOG = (
    "Examples:  vlood score photos/ --classes cats,dogs   |   "
    "vlood eval --method mcm --classes cifar10 --id test/ --ood far=noise/   |   vlood demo"
)

app = typer.Typer(
    name="vlood",
    help="Tell which images a CLIP model does not know.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"vlood {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Tell which images a CLIP model does not know."""


app.command(rich_help_panel="Detect")(score.score)
app.command(rich_help_panel="Detect")(embed.embed)
app.command(rich_help_panel="Negatives")(mine.mine)
app.add_typer(negatives.app, name="negatives", rich_help_panel="Negatives")
app.command(rich_help_panel="Negatives")(corpora.corpora)
app.command(rich_help_panel="Tune")(collect.collect)
app.command(rich_help_panel="Tune")(tune.tune)
app.command(rich_help_panel="Tune")(calibrate.calibrate)
app.command("eval", rich_help_panel="Evaluate")(evaluate.evaluate)
app.command(rich_help_panel="Evaluate")(pick.pick)
app.command(rich_help_panel="Evaluate")(bench.bench)
app.command(rich_help_panel="Evaluate")(diagnose.diagnose)
app.command(rich_help_panel="Evaluate")(clean.clean)
app.command("import", rich_help_panel="Share")(import_.import_)
app.command(rich_help_panel="Share")(export.export)
app.command(rich_help_panel="Share")(apply.apply)
app.command(rich_help_panel="Look")(listing.methods)
app.command(rich_help_panel="Look")(listing.models)
app.command(rich_help_panel="Look")(show.show)
app.command("help", rich_help_panel="Look")(help_.help_)
app.command(rich_help_panel="Look")(doctor.doctor)
app.command(rich_help_panel="Look")(demo.demo)
app.add_typer(cache.app, name="cache", rich_help_panel="Look")
completion.attach(app)
