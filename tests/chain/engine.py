"""A Docker engine of the test's own, in a network of its own, with images made of the programs that are tested anyway."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from integration.receivers import until

from .components import SHIPPED

PATIENCE = 60.0
_NOBODY = 65534


class NoEngine(Exception):
    """This machine does not let one run."""


class Recipe(NamedTuple):
    """What the image of a service is made of, as its makers' own is: which program, as whom, and where it may write."""

    entrypoint: str
    user: str
    writable: str = ""


RECIPES = {
    "collector": Recipe("/otelcol-contrib", "10001"),
    "jaeger": Recipe("/cmd/jaeger/jaeger-linux", "10001"),
    "prometheus": Recipe("/bin/prometheus", str(_NOBODY), "/prometheus"),
    "alertmanager": Recipe("/bin/alertmanager", str(_NOBODY), "/alertmanager"),
}
_READ_BY_DEBIANS = tuple(Path("/usr/share/prometheus/alertmanager").glob("*.tmpl"))
"""Which the makers' own binary has in it."""


@dataclass
class Engine:
    """Where there is nothing but loopback, so that the fixed ports of the file are nobody else's."""

    daemon: subprocess.Popen[bytes]
    folder: Path

    @classmethod
    def start(cls) -> Engine:
        folder = Path(tempfile.mkdtemp(prefix="engine-"))  # short: it has a socket in it
        places = {"data-root": "root", "exec-root": "exec", "pidfile": "pid"}
        command = ["dockerd", f"--host=unix://{folder}/sock", *(f"--{k}={folder}/{v}" for k, v in places.items())]
        plain = ["--storage-driver=vfs", "--bridge=none", "--iptables=false", "--ip6tables=false"]
        alone = ["unshare", "--net", "--mount", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen([*alone, *command, *plain], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        engine = cls(daemon, folder)
        try:
            until(engine._answers, PATIENCE, "the engine answering")
        except TimeoutError as late:
            said = (folder / "log").read_text()[-2000:]
            engine.stop()
            raise NoEngine(said) from late
        return engine

    def _answers(self) -> bool:
        if self.daemon.poll() is not None:
            raise TimeoutError("it has ended")
        return subprocess.run(["docker", "version"], env=self._environment(), capture_output=True).returncode == 0

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": f"unix://{self.folder}/sock"}

    def docker(self, *arguments: str, given: bytes | None = None) -> str:
        """Both of its streams; that it fails is a failure of the test."""
        return self._run(["docker", *arguments], given)

    def _run(self, command: list[str], given: bytes | None = None) -> str:
        done = subprocess.run(
            command, env=self._environment(), input=given, timeout=300, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, done.stdout.decode()
        return done.stdout.decode()

    def make_image(self, service: str, name: str, program: Path) -> None:
        recipe = RECIPES[service]
        changes = [f"USER {recipe.user}", f"ENTRYPOINT {json.dumps([recipe.entrypoint])}"]
        if recipe.writable:
            changes += [f"WORKDIR {recipe.writable}", f"VOLUME {recipe.writable}"]
        changed = [word for change in changes for word in ("--change", change)]
        self.docker("import", *changed, "-", name, given=_file_system(recipe, program))

    def see_it_run(self, name: str) -> None:
        """That a container of this image may run here at all, whatever it then does."""
        done = subprocess.run(
            ["docker", "run", "--rm", "--network=host", name, "--version"],
            env=self._environment(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if done.returncode == 125:  # the engine's own, see `docker run --help` and its manual
            raise NoEngine(done.stderr[-2000:])

    def compose(self, *arguments: str) -> str:
        """Docker Compose, with the file as shipped; the first version of it, where there is no other, knows no name."""
        if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
            return self._run(["docker", "compose", "-f", str(SHIPPED / "compose.yaml"), *arguments])
        nameless = self.folder / "compose.yaml"
        nameless.write_text(re.sub(r"^name:.*\n", "", (SHIPPED / "compose.yaml").read_text(), flags=re.MULTILINE))
        where = ["--project-directory", str(SHIPPED), "-p", "otel-asyncio", "-f", str(nameless)]
        return self._run(["docker-compose", *where, *arguments])

    def inspect(self, *containers: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", *containers))
        return found

    def inside(self, *command: str) -> list[str]:
        """The command, in the engine's network."""
        return ["nsenter", f"--net=/proc/{self.daemon.pid}/ns/net", *command]

    def stop(self) -> None:
        self.daemon.terminate()
        try:
            self.daemon.wait(PATIENCE)
        finally:
            self.daemon.kill()
            shutil.rmtree(self.folder, ignore_errors=True)


def _file_system(recipe: Recipe, program: Path) -> bytes:
    """A root file system as an archive: the program, what it is linked with, a folder or two."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        files = {Path(recipe.entrypoint): program} | {library: library for library in _linked_with(program)}
        files |= {each: each for each in _READ_BY_DEBIANS if "alertmanager" in program.name}
        for folder in sorted({parent for name in files for parent in name.parents}):
            archive.addfile(_folder(folder, owner=0))
        for name, path in files.items():
            archive.add(path.resolve(), str(name))
        if recipe.writable:
            archive.addfile(_folder(Path(recipe.writable), _NOBODY))
    return packed.getvalue()


def _folder(path: Path, owner: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(str(path).lstrip("/") or ".")
    entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o755, owner, owner
    return entry


def _linked_with(program: Path) -> Iterable[Path]:
    said = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return [Path(found) for found in re.findall(r"(/\S+) \(0x", said)]
