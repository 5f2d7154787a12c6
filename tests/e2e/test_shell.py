"""Completion in real shells, and `vlood help` in a pipe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from .conftest import Many, command

SCRIPTS = {
    "bash": 'eval "$(_VLOOD_COMPLETE=source_bash vlood)"; COMP_WORDS=(vlood score --method gl); '
    'COMP_CWORD=3; _vlood_completion vlood; echo "${COMPREPLY[@]}"',
    "fish": "_VLOOD_COMPLETE=source_fish vlood | source; complete -C 'vlood score --method gl'",
    "zsh": "_vlood_describe() {print -r -- $@}; compdef() {:}; _arguments() {print -r -- $@}; "
    'eval "$(_VLOOD_COMPLETE=source_zsh vlood)"; words=(vlood score --method gl); CURRENT=4; '
    "_vlood_completion",
}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_shell_completes_a_method(shell: str, environment: dict[str, str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = f"{os.path.dirname(command())}{os.pathsep}{environment['PATH']}"
    plain = {"bash": ["--norc"], "fish": ["--no-config"], "zsh": ["-f"]}[shell]
    done = subprocess.run(
        [shell, *plain, "-c", SCRIPTS[shell]],
        capture_output=True,
        text=True,
        env={**environment, "PATH": path},
        timeout=60,
    )
    assert "gl-mcm" in done.stdout, done.stderr
    assert "neglabel" not in done.stdout


def test_completing_never_imports_torch(environment: dict[str, str]) -> None:
    code = (
        "import sys\n"
        "from vlood.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print([m for m in ('torch', 'open_clip') if m in sys.modules])\n"
    )
    for words in ("tune\nknn\n--set\n", "score\n--model\nViT", "mine\n--corpus\n", "bench\n"):
        asked = {"COMP_WORDS": f"vlood\n{words}", "COMP_CWORD": str(words.count("\n") + 1)}
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.argv = ['vlood']\n{code}"],
            capture_output=True,
            text=True,
            env={**environment, **asked, "_VLOOD_COMPLETE": "complete_bash"},
            timeout=60,
        )
        *offered, heavy = done.stdout.splitlines()
        assert offered, words
        assert heavy == "[]", words


def test_help_in_a_pipe_is_plain(many: Many) -> None:
    listed, faq, score, nonsense = many(
        ["help"], ["help", "faq"], ["help", "negatives", "search"], ["help", "thresold"]
    )
    assert "faq\tWhat goes wrong most often" in listed.out
    assert faq.out.startswith("# Questions\n")
    assert "\x1b" not in faq.out
    assert "Usage: vlood negatives search" in score.out
    assert "did you mean thresholds?" in nonsense.sentence(2)
