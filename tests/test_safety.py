"""What SECURITY.md promises of the code as a whole; what it promises of inputs is in badinput."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from watching import environment, reached

from diffground.errors import InputError
from diffground.io.files import write_whole
from diffground.store.items import Item, fill
from diffground.store.reports import read_report

#: What runs code that it reads, opens what it is told to, or asks the network.
FORBIDDEN_MODULES = {
    "cloudpickle", "dill", "ftplib", "http", "httpx", "huggingface_hub", "imp", "joblib",
    "marshal", "requests", "shelve", "smtplib", "urllib", "xmlrpc",
}  # fmt: skip
FORBIDDEN_CALLS = {
    "eval", "exec", "os.popen", "os.system", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "shutil.unpack_archive", "torch.hub.load", "torch.jit.load", "yaml.full_load", "yaml.load",
    "yaml.load_all", "yaml.unsafe_load",
}  # fmt: skip
FORBIDDEN_METHODS = {"extractall", "read_pickle", "get_dataset_config"}

#: Whether the run log's server, which the user named, answers.
KNOWN = {"run_store.py: import urllib.request"}


def sources(root: Path) -> Iterator[tuple[str, ast.AST]]:
    """All code that users run."""
    for path in sorted((root / "src").rglob("*.py")):
        yield path.name, ast.parse(path.read_text("utf-8"))
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        yield path.name, ast.parse("\n".join(code))


def faults(code: ast.AST, own: frozenset[str] = frozenset()) -> Iterator[str]:
    """What in a source does more than it should; ``own`` are classes of the package."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            yield from (f"import {alias.name}" for alias in node.names if _forbidden(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module:
            if _forbidden(node.module):
                yield f"import {node.module}"
            if node.module == "pickle":
                yield "from pickle import"
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            if node.attr != "UnpicklingError":
                yield f"pickle.{node.attr}"
        elif isinstance(node, ast.Call):
            yield from _calls(node, own)


def _forbidden(module: str) -> bool:
    return module != "urllib.parse" and module.partition(".")[0] in FORBIDDEN_MODULES


def _calls(node: ast.Call, own: frozenset[str]) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {each.arg: ast.unparse(each.value) for each in node.keywords}
    method = name.rpartition(".")[2]
    if name in FORBIDDEN_CALLS or method in FORBIDDEN_METHODS:
        yield name
    if name == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
        yield f"{name} with pickles or a shell"
    if given.get("trust_remote_code", "False") != "False":
        yield f"{name} with code of its own"
    if name == "Image.open" and "formats" not in given:
        yield "Image.open of any format"
    if method == "from_pretrained":
        kind = name.split(".")[0]
        if kind not in own and given.get("local_files_only") != "True":
            yield f"{name} without local_files_only=True"
        if (
            re.match(r"Auto(Model|Config|Tokenizer|[A-Za-z]*Processor|FeatureExtractor)", kind)
            and given.get("trust_remote_code") != "False"
        ):
            yield f"{name} without trust_remote_code=False"


def classes(root: Path) -> frozenset[str]:
    """Of the package: their ``from_pretrained`` reads folders by the rules."""
    return frozenset(
        node.name
        for _, code in sources(root)
        for node in ast.walk(code)
        if isinstance(node, ast.ClassDef)
    )


def test_nothing_that_is_read_is_run(root: Path) -> None:
    own = classes(root)
    found = [f"{name}: {fault}" for name, code in sources(root) for fault in faults(code, own)]
    assert set(found) == KNOWN


@pytest.mark.parametrize(
    "code",
    [
        "import pickle\npickle.load(f)",
        "from pickle import loads",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(text)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "import urllib.request",
        "CLIPModel.from_pretrained(folder)",
        "AutoModel.from_pretrained(folder, local_files_only=True)",
        "AutoModel.from_pretrained(f, local_files_only=True, trust_remote_code=True)",
        "Image.open(path)",
        "archive.extractall(folder)",
    ],
)
def test_the_scan_sees(code: str) -> None:
    """Else the test above would say nothing."""
    assert list(faults(ast.parse(code)))


def test_a_file_that_is_written_takes_a_links_place(tmp_path: Path) -> None:
    """Whoever put the link there does not decide what is written over."""
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "out.txt").symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "out.txt", lambda part: part.write_text("new"))
    assert (tmp_path / "precious").read_text() == "kept"
    assert (tmp_path / "out.txt").read_text() == "new" and not (tmp_path / "out.txt").is_symlink()


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/../x", "a//x", "", ".x", "a/.x", "C:\\x", "..\\x", "\ud800", "a" * 300],
)
def test_an_item_is_written_nowhere_else(name: str, tmp_path: Path) -> None:
    """Names of items come from lists of images."""
    with pytest.raises(InputError, match="its name cannot be the name of a file"):
        fill(tmp_path / "store", {}, [Item(name, (name,))], str, lambda *_: None, what="items")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "..\\x"])
def test_a_report_names_no_files_elsewhere(name: str, tmp_path: Path) -> None:
    note = {"item": "a", "key": "", "files": {name: ""}, "sources": {}, "commit": ""}
    path = tmp_path / "shard-000-of-001.jsonl"
    path.write_text(json.dumps(note) + "\n" + json.dumps(note | {"files": {"a": ""}}) + "\n")
    (entry,), _ = read_report(path)
    assert entry.files == {"a": ""}


def test_pages_are_shown_to_this_machine_alone(root: Path) -> None:
    text = (root / "Makefile").read_text("utf-8")
    assert re.search(r"(?m)^BIND \?= 127\.0\.0\.1$", text)
    for command in ("kedro viz run", "mlflow ui"):
        assert f"{command} --host $(BIND)" in text
    documents = [root / "README.md", root / "SECURITY.md", *(root / "conf").rglob("*.md")]
    for path in documents:
        assert not re.search(r"0\.0\.0\.0|--host|--ip", path.read_text("utf-8")), path


JOBS = """
import sys
from pathlib import Path
import numpy as np
import tiny_grounded
from click.testing import CliRunner
from diffground.console import main
from diffground.io.images import write_png

photo = write_png("photo.png", np.full((40, 60, 3), 90, np.uint8))
done = CliRunner().invoke(main, ["ground", str(photo), "a cat"])
assert done.exit_code == 0, done.output
made = tiny_grounded.made(Path("sets"))
assert made["complete"] and made["made"], made
"""


@pytest.mark.slow
def test_no_job_asks_the_network(root: Path, tmp_path: Path) -> None:
    """Masks of an image, and synthetic samples; test_main_job has a training."""
    env = environment(tmp_path, root)
    env["PYTHONPATH"] += f":{root / 'tests'}"
    done = subprocess.run(
        [sys.executable, "-c", JOBS], cwd=tmp_path, env=env, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert reached(tmp_path) == []
