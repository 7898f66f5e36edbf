"""Builds the wheel, installs it into a clean environment outside the checkout, imports every module, loads every YAML.

python tests/wheel.py
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECK = """
import importlib, pkgutil, sys
from importlib.resources import files
from pathlib import Path
import sightline
from omegaconf import OmegaConf
from sightline.decoders.calibration.lists import find
assert Path(sys.prefix) in Path(sightline.__file__).parents, sightline.__file__
modules = [found.name for found in pkgutil.walk_packages(sightline.__path__, "sightline.")]
for name in modules:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in ("lm_eval", "lmms_eval", "gradio"):  # what needs an extra says so when it is asked for
            raise
configs = [path for path in Path(str(files("sightline.conf"))).rglob("*.yaml")]
for path in configs:
    OmegaConf.load(path)
assert len(modules) > 30 and len(configs) > 10, (modules, configs)
tiny = sightline.load("tiny-llava")
assert find("auto", tiny.adapter).what == "image", "the list of image heads that DeCoRe takes"
sys.stdout.write(f"wheel: {len(modules)} modules imported, {len(configs)} YAML files loaded, tiny-llava loaded\\n")
"""


def run(*command: str, cwd: Path = ROOT) -> None:
    """Run a command; its failure is ours."""
    subprocess.run(command, cwd=cwd, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})


def main() -> None:
    """Build, install, check."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT))
        (wheel,) = folder.glob("*.whl")
        stray = [entry for entry in zipfile.ZipFile(wheel).namelist() if entry.split("/")[0] == "tests"]
        if stray:
            raise SystemExit(f"The wheel holds tests: {stray[:3]}")
        run(sys.executable, "-m", "venv", str(folder / "venv"))
        python = str(folder / "venv" / "bin" / "python")
        run(python, "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel))
        run(python, "-c", CHECK, cwd=folder)
        run(str(folder / "venv" / "bin" / "sightline"), "decoders", cwd=folder)


if __name__ == "__main__":
    main()
