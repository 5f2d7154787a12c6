"""The README's generated parts are those of the code, and its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_generated_parts_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "readme", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_option_the_readme_uses_exists() -> None:
    from typer.main import get_command

    from vlood.cli.app import app

    commands = get_command(app).commands
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    uses = [match for line in lines for match in re.findall(r"\bvlood ([a-z]+)([^|#]*)", line)]
    assert len(uses) >= 8
    for name, rest in uses:
        options = {flag for param in commands[name].params for flag in param.opts}
        for flag in re.findall(r"(?<!\S)(--?[a-zA-Z0-9][\w-]*)", rest):
            assert flag in options or hasattr(commands[name], "commands"), f"vlood {name} {flag}"


def test_the_changelog_speaks_of_every_command() -> None:
    from typer.main import get_command

    from vlood.cli.app import app

    text = (ROOT / "CHANGELOG.md").read_text()
    for name in get_command(app).commands:
        assert f"vlood {name}" in text, name
