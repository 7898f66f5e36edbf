"""What the README prints runs as printed."""

import re
from pathlib import Path

from sightline.eval import listing

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_quick_start_runs_as_printed(capsys):
    code = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    assert len(code.strip().splitlines()) <= 9
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "ASSISTANT:" in printed
    assert len(printed.split("ASSISTANT:")[1].split()) > 2


def test_every_linked_file_is_there():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in link:
            assert (Path(__file__).parents[1] / link).exists(), link


def test_the_table_of_decoders_is_up_to_date():
    held = README.partition(listing.BEGIN)[2].partition(listing.END)[0]
    assert held.strip() == listing.matrix().strip(), "run `make readme`"
