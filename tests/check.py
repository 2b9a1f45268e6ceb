"""Everything that has to hold before a change lands: ``uv run --extra dev python -m tests.check``.

Installs the servers that the tests talk to (as root, on Debian), then runs lint, types, import
contracts, the freshness of generated files and all tests. ``--fast`` leaves out the slow tests,
``--nightly`` turns the random kills and the property tests up.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.support import azurite, oidc, vsftpd

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

SERVERS = {
    "zstd": "zstd",
    "zip": "zip",
    "unzip": "unzip",
    "gpg": "gnupg",
    "age": "age",
    "7z": "p7zip-full",
    "/usr/sbin/dovecot": "dovecot-imapd",
    "/usr/lib/dovecot/lmtp": "dovecot-lmtpd",
    "/usr/sbin/postfix": "postfix",
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "mariadbd": "mariadb-server",
    "nginx": "nginx-light",
    "node": "nodejs",
    "npm": "npm",
    "proftpd": "proftpd-mod-crypto",
    "radosgw": "radosgw",
    "pgbouncer": "pgbouncer",
    "redis-server": "redis-server",
    "sshd": "openssh-server",
    "/usr/lib/postgresql/15/bin/postgres": "postgresql-15",
    "/usr/share/tdsodbc/odbcinst.ini": "tdsodbc",
}
"""Program, or a file that comes with it -> Debian package."""

OLDEST_AIRFLOW = "3.2.2"


def install_servers() -> None:
    """Install what is missing. Daemons are not started: the tests run their own, on free ports."""
    search = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = sorted(
        package
        for program, package in SERVERS.items()
        if not (shutil.which(program, path=search) or Path(program).is_file())
    )
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.stdout.write(f"not installed, so their tests are skipped: {', '.join(missing)}\n")
        return
    policy = Path("/usr/sbin/policy-rc.d")
    planted = not policy.exists()
    if planted:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300"]
    try:
        subprocess.run([*apt, "update", "-qq"], check=True, env=environment)
        install = [*apt, "install", "-y", "-qq", "--no-install-recommends", *missing]
        subprocess.run(install, check=True, env=environment, stdout=subprocess.DEVNULL)
    finally:
        if planted:
            policy.unlink()


def steps(arguments: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Name and command of each check, the quick ones first."""
    tests = [str(BIN / "pytest"), "-q", "-n", "2", "--dist", "loadfile", "--durations=15"]
    if arguments.fast:
        tests += ["-m", "not slow"]
    return [
        ("lint", [str(BIN / "ruff"), "check", "."]),
        ("format", [str(BIN / "ruff"), "format", "--check", "."]),
        ("types", [str(BIN / "mypy")]),
        ("import contracts", [str(BIN / "lint-imports"), "--no-cache"]),
        ("generated files", [sys.executable, "-m", "flowrunner_provider.flows.generate", "--check"]),
        ("tests", tests),
        ("oldest Airflow", oldest_airflow()),
    ]


def oldest_airflow() -> list[str]:
    """The tests that hold on every Airflow, on the oldest supported one, in an environment of its own."""
    uv = os.environ.get("UV") or shutil.which("uv") or str(BIN / "uv")
    packages = [f"apache-airflow=={OLDEST_AIRFLOW}", "hypothesis", "pytest", "pytest-timeout", "trustme"]
    command = [uv, "run", "--quiet", "--isolated", "--no-project", "--with-editable", f"{ROOT}[all,demo]"]
    command += [part for package in packages for part in ("--with", package)]
    return [*command, "python", "-m", "pytest", "-q", "tests/runtime/test_versions.py"]


def main() -> int:
    """Run all checks to the end; exit status 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="leave the slow tests out")
    parser.add_argument("--nightly", action="store_true", help="more random kills and more examples")
    arguments = parser.parse_args()
    install_servers()
    vsftpd.install()
    if shutil.which("npm"):
        oidc.install()
        oidc.install(azurite.PACKAGE)
    environment = dict(os.environ)
    if arguments.nightly:
        environment |= {"HYPOTHESIS_PROFILE": "nightly", "FLOWRUNNER_KILLS": "100", "FLOWRUNNER_SOAK": "2000"}
    if environment.get("CI"):
        environment["REQUIRE_BACKENDS"] = "1"
    failed = []
    for name, command in steps(arguments):
        began = time.monotonic()
        sys.stdout.write(f"== {name}\n")
        sys.stdout.flush()
        if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            failed.append(name)
        sys.stdout.write(f"== {name}: {time.monotonic() - began:.0f} s\n")
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else "all checks passed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
