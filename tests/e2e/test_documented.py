"""The documentation's examples run as they stand, in a shell, in a folder of tiny things.

Of the helps, the README, the pages and the topics as few examples as show every option, method and
program of every command run, each in a folder of its own. In it is what the example names: things
that a reader brings (see props.py), and things that other examples make, which run first.
Nothing runs twice. What makes an example too large for a test is made small on its way to the
command: the default model is a tiny one, negatives come from a dozen words, training takes a step
or two. A few cannot run here; they are listed with the reason, and parse like all the rest.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.negatives.conftest import write_wordnet

from .fork_server import ForkServer
from .on_path import on_path
from .props import write_props

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from docs_site import examples as documented  # noqa: E402

COMMANDS = documented.all_commands()
EXAMPLES = documented.documented()

# Examples that do not run here, by what their text holds: they must parse all the same.
NOT_RUN = {
    "scripts/": "these are the repository's own scripts",
    "duckdb": "another program",
    "pip install": "installs the package",
    "--synthesize": "needs a text-to-image pipeline: tests/e2e/test_collect.py has a tiny one",
    "wordnet:download": "needs the network",
    ".onnx": "takes 8 s: tests/e2e/test_export.py",
    "vlood demo": "takes 40 s: tests/e2e/test_command.py",
    "vlood bench ": "draws a world or needs data sets: tests/e2e/test_bench.py",
    "--classifier torchvision:": "needs torchvision's file of 45 MB",
    "--classifier timm:": "needs a file of 45 MB: tests/engines/test_classifiers.py",
    "resnet18.safetensors": "needs a file of 45 MB: tests/e2e/test_classifier.py",
    "import cma": "needs a model of 600 MB: tests/detector/test_importing.py has a tiny one",
    "ViT-B-32:openai --model": "needs two models: tests/e2e/test_diagnose.py",
    "--append": "needs a report of the very same files: tests/e2e/test_evaluate.py",
    "my-regions neighbours --combine": "a model that has learned nothing tells no regions apart",
    "--install-completion": "writes into the user's shell: tests/cli/test_completion.py",
}

# What stands for `...`, and what takes more than the line itself to make.
REST = {
    "eval": "--classes classes.txt --id test/ --ood strange/",
    "tune": "--classes classes.txt --train train/ -o made",
}
MADE_BY = {
    "my-detector": (
        "vlood tune neglabel --classes classes.txt -o my-detector",
        "vlood calibrate my-detector --id known-good/",
    ),
    "bank": ("vlood mine --classes classes.txt -o bank",),
    "photos-1.store": ("vlood embed all.txt -o photos-1.store",),
}
# What an example takes on a GPU, where there is none.
ON_A_GPU = {"--device": "cpu", "--precision": "fp32"}
CODES = {"--fail-on-ood": 4}

# Settings that make a training small.
SMALL = {
    **dict.fromkeys(("coop", "locoop", "lapt", "cma"), "epochs=1"),
    "local-prompt": "epochs=1 views=2 positive_views=1 negative_prompts=4",
    "clipn": "epochs=1 prompts=2",
    "synood": "head_epochs=1 label_epochs=1",
    "classifier": "epochs=1 arch=test_vit",
}


class Stage:
    """Runs examples, each once, and keeps what they make for those that name it."""

    def __init__(self, folder: Path, tiny: str, environment: dict[str, str]) -> None:
        self.props, self.runs, self.tiny = folder / "props", folder / "runs", tiny
        self.environment = environment
        self.done: dict[str, str] = {}
        write_props(self.props, tiny, write_wordnet)

    def run(self, text: str) -> str:
        """Run an example unless it has run; return what went wrong, or nothing."""
        if text not in self.done:
            self.done[text] = "it needs what itself makes"
            self.done[text] = self._run(text)
        return self.done[text]

    def _run(self, text: str) -> str:
        words = _words(text)
        here = self.runs / f"{len(self.done):03d}"
        here.mkdir(parents=True)
        made = set(_made(words))
        for name in _named(words):
            if name not in made and not (here / name).exists():
                wrong = self._make(name)
                if wrong:
                    return wrong
                if (self.props / name).exists():
                    _copy(self.props / name, here / name)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", text],
            cwd=here,
            env={**self.environment, "HOME": str(self.props)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        wanted = next((code for mark, code in CODES.items() if mark in words), 0)
        if done.returncode not in (wanted, 0):
            return f"{text}\nends with exit code {done.returncode}: {done.stderr[-1500:]}"
        for name in _made(words):
            kept = text in MADE_BY.get(name, (text,)) and not (self.props / name).exists()
            if kept and (here / name).exists():
                shutil.move(here / name, self.props / name)
        if words[:2] == ["vlood", "calibrate"]:
            shutil.rmtree(self.props / words[2])
            shutil.move(here / words[2], self.props / words[2])
        return ""

    def _make(self, name: str) -> str:
        """Run the example that makes a thing, if there is one and the thing is not there."""
        if (self.props / name).exists():
            return ""
        makers = MADE_BY.get(name) or [
            each.text
            for each in EXAMPLES
            if name in _made(_words(each.text))
            and "--dry-run" not in each.text
            and _reason(each.text) is None
        ]
        for text in makers[: None if name in MADE_BY else 1]:
            wrong = self.run(text)
            if wrong:
                return f"{name} could not be made:\n{wrong}"
        return ""

    def smaller(self, arguments: list[str]) -> list[str]:
        """Return the arguments for the tiny model, few words and few steps."""
        name, words = _command(arguments)
        if name is None:
            return arguments
        if "..." in words:
            place = words.index("...")
            words[place : place + 1] = shlex.split(REST[name])
        for place, word in enumerate(words[:-1]):
            if word == "--model":
                words[place + 1] = self._model(words[place + 1])
            elif word in ON_A_GPU:
                words[place + 1] = ON_A_GPU[word]
            elif ((word, words[place + 1]) == ("--classes", "world") and "--train" in words) or (
                word == "--classes" and words[:2] == ["lapt", "best.ckpt"]
            ):
                words[place + 1] = str(self.props / "classes.txt")
            elif (word, words[place + 1], name) == ("--negatives", "bank", "score"):
                # The bank was mined for the classes of classes.txt.
                if _after(words, "--classes") not in ("classes.txt", "c.txt", ""):
                    words[place + 1] = str(self.props / "words.txt")
            elif word == "--captions":
                words[place + 1] = words[place + 1].replace("{000..331}", "{000..000}")
        return [*name.split(), *words, *self._added(name, words)]

    def _model(self, value: str) -> str:
        if value.startswith("layers:"):
            return f"layers:{self.tiny}"
        return value if value.startswith(("tuned:", "local-dir:")) else self.tiny

    def _added(self, name: str, words: list[str]) -> list[str]:
        has = set(words)
        takes = {flag for each in COMMANDS[name].params for flag in each.opts}
        added: list[str] = []
        without = {"--model", "--class-embeddings", "--list", "--names"}
        if name == "eval" and "--method" in has:
            without -= {"--detector"}
        elif name not in ("diagnose",):
            without |= {"--detector"}
        own = name in ("calibrate", "apply", "export", "negatives search")
        own |= name == "tune" and words[0] in ("ensemble", "classifier")
        own |= name == "import" and words[0] in ("neglabel-txt", "embeddings")
        if "--model" in takes and not (has & without) and not own:
            added += ["--model", self.tiny]
        if name == "mine" and "--corpus" not in has:
            corpus = f"wordnet:{self.props / 'dict'}" if "--all-lemmas" in has else None
            added += ["--corpus", corpus or str(self.props / "words.txt")]
        if name == "mine" and "--leaks" not in has:
            # All texts are alike to a model that has learned nothing.
            added += ["--leaks", "exact"]
        methods = words[0] if name == "tune" else _after(words, "--method")
        if "--strict" in has:
            added += ["--per-label", "2"]
        if name == "pick" and not methods:
            added += ["--method", "mcm,energy,knn"]
        negatives = re.search("neglabel|adaneg|lapt|synood|cma|all", methods)
        negatives = negatives or (name == "apply" and "--classes" in has)
        if negatives and "--negatives" in takes - has and "--negative-embeddings" not in has:
            added += ["--negatives", str(self.props / "words.txt")]
        if "--resamples" in takes and "--resamples" not in has:
            added += ["--resamples", "20"]
        if name in ("tune", "eval"):
            for method in methods.split(","):
                for setting in SMALL.get(method, "").split():
                    added += ["--set", setting if name == "tune" else f"{method}.{setting}"]
        return added


def _after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1] if option in words else ""


def _words(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars="<>|;&()")
    lexer.commenters = ""
    lexer.whitespace_split = True
    return list(lexer)


def _made(words: list[str]) -> list[str]:
    """Return what a line makes: what follows `-o` or `>`."""
    return [
        after.rstrip("/").split("/")[0]
        for word, after in pairwise(words)
        if word in ("-o", ">", "--keep-list", "--state", "--heatmap", "--log", "--picture")
    ]


def _named(words: list[str]) -> Iterator[str]:
    """Yield every name that might be a thing on the disk."""
    if "..." in words:
        command = [after for word, after in pairwise(words) if word == "vlood"][-1]
        words = [*words, *REST[command].split()]
    for word in words:
        word = "photos" if word == "." else re.sub(r"^(near|far):", "", word)
        for part in re.split(r"[=,:]", word):
            name = part.removeprefix("./").split("/")[0]
            if re.fullmatch(r"[\w.-]*\w[\w.-]*", name) and not name.startswith("-"):
                yield name
                if name.endswith(".npy"):  # its names lie beside it
                    yield name.replace(".npy", ".txt")
            elif "*" in name or "{" in name:
                yield re.sub(r"\{.*\}", "000", name)


def _command(arguments: list[str]) -> tuple[str | None, list[str]]:
    for count in (2, 1):
        name = " ".join(arguments[:count])
        if name in COMMANDS:
            return name, list(arguments[count:])
    return None, arguments


def _copy(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.symlink_to(source.readlink())
    elif source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def stage(
    fork_server: ForkServer | None,
    environment: dict[str, str],
    tiny: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    if fork_server is None:
        pytest.skip("a start of the installed command takes seconds")
    folder = tmp_path_factory.mktemp("documented")
    held: list[Stage] = []
    (folder / "bin").mkdir()
    with on_path(fork_server, folder / "bin", lambda words: held[0].smaller(words)) as path:
        held.append(Stage(folder, tiny, {**environment, "PATH": path}))
        yield held[0]


def _group(example: documented.Example) -> str:
    """Return which command an example is of."""
    found = re.search(r"(?<![\w/.-])vlood ([a-z]+)", example.text)
    return found[1] if found else "other programs"


def _reason(text: str) -> str | None:
    return next((why for mark, why in NOT_RUN.items() if mark in text), None)


def _shown(example: documented.Example) -> set[tuple[str, str]]:
    """Return what an example shows of its command: options, methods, programs."""
    words = _words(example.text)
    telling = {"vlood", "tune", "import", "--method", "--set", "--format", "--filter", "--rule"}
    shown = {word for word in words if word.startswith(("-", "|", "&"))}
    shown |= {after for word, after in pairwise(words) if word in telling}
    return {(_group(example), word) for word in shown | {words[0]}}


def _chosen(examples: Iterable[documented.Example]) -> list[documented.Example]:
    """Return few examples that show whatever all of them show, in their order."""
    order = list(dict.fromkeys(examples))
    left, found = set().union(*map(_shown, order)), []
    while left:
        best = max(order, key=lambda each: len(_shown(each) & left))
        found.append(best)
        left -= _shown(best)
    return [each for each in order if each in found]


CHOSEN = _chosen(each for each in EXAMPLES if _reason(each.text) is None)
GROUPS = sorted({_group(each) for each in CHOSEN})


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_the_examples_run(group: str, stage: Stage) -> None:
    wrong = [
        f"{each.where}: {found}"
        for each in CHOSEN
        if _group(each) == group
        for found in [stage.run(each.text)]
        if found
    ]
    assert not wrong, "\n\n".join(wrong)


def test_nearly_everything_that_examples_show_is_run() -> None:
    shown = set().union(*map(_shown, EXAMPLES))
    run = set().union(*map(_shown, CHOSEN))
    assert len(EXAMPLES) > 250
    assert len(run) > 0.8 * len(shown)
    for mark in NOT_RUN:
        assert any(mark in each.text for each in EXAMPLES), f"no example has {mark} any more"


def test_the_examples_that_do_not_run_parse() -> None:
    """Their options are known and take such values."""
    run = {each.text for each in CHOSEN}
    for each in EXAMPLES:
        for use in re.findall(r"(?<![\w/.-])vlood ([a-z][^|;&>]*)", each.text):
            if each.text not in run:
                name, words = _command(_words(use))
                assert name is not None, each
                if "..." in words:
                    words = [*words, *REST[name].split()]
                COMMANDS[name].make_context(name, [word for word in words if word != "..."])
