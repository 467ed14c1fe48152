"""README.md says where things are; this holds it to that."""
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_line_references_point_at_the_definitions():
    references = re.findall(r"\[`(\w+)`\]\(([\w/]+\.py)#L(\d+)\)", (ROOT / "README.md").read_text())
    assert len(references) >= 15
    for name, file, line in references:
        assert re.match(rf"\s*(def|class) {name}\b", (ROOT / file).read_text().splitlines()[int(line) - 1]), f"{name} is not at {file}:{line}"


def test_files_it_names_exist():
    for name in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text()):
        assert (ROOT / name).exists(), name
