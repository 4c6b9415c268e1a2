"""The README's Python runs as it stands, with fewer epochs and samples."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_blocks_run(number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    code = re.sub(r"epochs=\d+", "epochs=1", BLOCKS[number])
    code = re.sub(r"num_samples=\d+", "num_samples=10", code)
    code = code.replace("data.test", "data.test[:200]").replace("data.train", "data.train[:500]")
    exec(compile(code, f"README.md, block {number}", "exec"), {"__name__": "readme"})


def test_there_are_blocks() -> None:
    assert BLOCKS
