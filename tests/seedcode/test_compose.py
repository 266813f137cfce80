"""The layers compose to one project, every combination of them, and what does not fit is named."""

import io
import json
import zipfile
from pathlib import Path

import pytest

import compose

# Seven are the model server with its test and the function behind an API. They are in every project, so that
# one gets an API by a block of mlops.yml, and changes how it serves in a file that it owns.
MOST_FILES = 35
# nobody reads or edits these
MADE = {"requirements-dev.txt", "containers/requirements.txt", "containers/api/requirements.txt"}
EXPECTED = {
    *(
        "mlops.yml",
        "pipeline.py",
        "README.md",
        "requirements-dev.in",
        "requirements-dev.txt",
        ".gitignore",
        ".pre-commit-config.yaml",
    ),
    *("src/preprocess.py", "src/train.py", "src/evaluate.py", "src/inference.py"),
    *(f"containers/{name}/Dockerfile" for name in ("preprocessing", "training", "inference")),
    *("containers/requirements.in", "containers/requirements.txt"),
    *("notebooks/01-experiment.ipynb", "notebooks/02-monitoring.ipynb", "data/README.md"),
}


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """A seedcode-repo as small as it can be."""
    for path, content in {
        "base/README.md": "base\n",
        "base/mlops.part.yml": "version: 1\n",
        "frameworks/one/src/train.py": "one\n",
        "frameworks/one/mlops.part.yml": "framework: one\n\n\n",
        "frameworks/two/src/train.py": "two\n",
        "inference/live/src/serve.py": "live\n",
        "inference/live/mlops.part.yml": "inference: live",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("combination", compose.combinations(), ids="-".join)
def test_every_combination_is_a_project_that_is_small_enough_to_own(combination: tuple[str, str]):
    files = set(compose.compose(*combination))
    assert files >= EXPECTED
    assert len(files - MADE) <= MOST_FILES
    assert not [path for path in files if ".part." in path or "__pycache__" in path]


def test_the_repository_has_the_first_combination():
    assert {("sklearn", "realtime"), ("sklearn", "batch")} <= set(compose.combinations())


def test_ways_of_use_differ_in_their_settings_alone() -> None:
    realtime, batch = (compose.compose("sklearn", mode) for mode in ("realtime", "batch"))
    assert {name for name in realtime.keys() | batch.keys() if realtime.get(name) != batch.get(name)} == {
        "mlops.yml"
    }


def test_files_come_from_the_chosen_layers(layers: Path):
    files = compose.compose("two", "live", layers)
    assert {path: files[path] for path in files if path != "mlops.yml"} == {
        "README.md": b"base\n",
        "src/serve.py": b"live\n",
        "src/train.py": b"two\n",
    }
    assert compose.combinations(layers) == [("one", "live"), ("two", "live")]


def test_parts_are_joined_in_the_order_of_the_layers(layers: Path):
    assert (
        compose.compose("one", "live", layers)["mlops.yml"]
        == b"version: 1\n\nframework: one\n\ninference: live\n"
    )


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("base", "frameworks/one", "src/x.py is in two layers: base and frameworks/one"),
        ("base", "inference/live", "src/x.py is in two layers: base and inference/live"),
        ("frameworks/one", "inference/live", "src/x.py is in two layers: frameworks/one and inference/live"),
    ],
)
def test_the_same_file_in_two_layers_is_an_error_that_names_both(
    layers: Path, first: str, second: str, message: str
):
    for layer in (first, second):
        (layers / layer / "src").mkdir(exist_ok=True)
        (layers / layer / "src" / "x.py").write_text("same")
    with pytest.raises(compose.ComposeError, match=message):
        compose.compose("one", "live", layers)


def test_a_whole_file_beside_parts_of_it_is_an_error(layers: Path):
    (layers / "base" / "mlops.yml").write_text("version: 1")
    with pytest.raises(compose.ComposeError, match="mlops.yml is in two layers: base has all of it"):
        compose.compose("one", "live", layers)


def test_an_unknown_layer_is_answered_with_the_known_ones(layers: Path):
    with pytest.raises(compose.ComposeError, match="frameworks: there is no 'three'; choose one of one, two"):
        compose.compose("three", "live", layers)
    with pytest.raises(compose.ComposeError, match="inference: there is no 'batch'; choose one of live"):
        compose.compose("one", "batch", layers)


def test_what_running_the_code_leaves_behind_is_not_composed(layers: Path):
    before = compose.compose("one", "live", layers)
    for path in ("src/__pycache__/train.cpython-311.pyc", "build/model.bin", ".ipynb_checkpoints/a.ipynb"):
        (layers / "frameworks/one" / path).parent.mkdir(parents=True, exist_ok=True)
        (layers / "frameworks/one" / path).write_text("left behind")
    assert compose.compose("one", "live", layers) == before


def test_the_same_files_give_the_same_zip(layers: Path):
    first = compose.zip_bytes(compose.compose("one", "live", layers))
    for path in layers.rglob("*.py"):
        path.touch()
        path.chmod(0o700)
    files = compose.compose("one", "live", layers)
    assert compose.zip_bytes(dict(reversed(files.items()))) == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert {entry.filename: archive.read(entry) for entry in archive.infolist()} == files
        assert {(entry.date_time, entry.external_attr >> 16) for entry in archive.infolist()} == {
            ((1980, 1, 1, 0, 0, 0), 0o100644)
        }


def test_a_folder_with_files_in_it_is_not_written_to(layers: Path, tmp_path: Path):
    with pytest.raises(compose.ComposeError, match="not empty"):
        compose.write_folder(compose.compose("one", "live", layers), tmp_path)


def test_the_command_writes_a_zip_and_a_folder(layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    choice = ["--seedcode", str(layers), "--framework", "one", "--inference", "live", "--out"]
    assert compose.main([*choice, str(tmp_path / "out" / "seed.zip")]) == 0
    assert compose.main([*choice, str(tmp_path / "project")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["files"] == 4
    with zipfile.ZipFile(tmp_path / "out" / "seed.zip") as archive:
        assert archive.read("README.md") == (tmp_path / "project" / "README.md").read_bytes()


def test_the_command_says_what_is_wrong(layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert (
        compose.main(
            ["--seedcode", str(layers), "--framework", "x", "--inference", "live", "--out", str(tmp_path)]
        )
        == 1
    )
    assert capsys.readouterr().err == "compose: frameworks: there is no 'x'; choose one of one, two\n"
    with pytest.raises(SystemExit) as ended:
        compose.main(["--framework", "one"])
    assert ended.value.code == 2
