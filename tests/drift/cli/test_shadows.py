"""Files of a user that bear the names of our packages."""

import subprocess
import sys

import pytest


def _import(folder, statement="import circuit_drift"):
    """Import with a folder first on the path, as scripts and notebooks have it."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); {statement}; print(circuit_drift.run.__module__)"
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=folder)


@pytest.mark.parametrize("name", ["heads", "circuits", "checkpoints"])
def test_a_file_of_the_same_name_is_named_and_not_run(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("print('RUN')")
    done = _import(tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: circuit_drift needs its own package {name}, but {tmp_path / name}.py of the same name stands "
        "before it: rename that, or start from another folder"
    )
    assert "RUN" not in done.stdout


def test_one_that_was_imported_before_is_named_too(tmp_path):
    (tmp_path / "heads.py").write_text("")
    done = _import(tmp_path, "import heads; import circuit_drift")
    assert f"{tmp_path}/heads.py of the same name" in done.stderr.splitlines()[-1]


def test_folders_of_data_and_packages_of_ones_own(tmp_path):
    (tmp_path / "checkpoints" / "step-10").mkdir(parents=True)
    (tmp_path / "heads").mkdir()
    assert _import(tmp_path).stdout.startswith("circuit_drift")
    (tmp_path / "heads" / "__init__.py").write_text("")
    assert f"but {tmp_path}/heads of the same name" in _import(tmp_path).stderr
