"""A Dockerfile as stages of instructions, and those stages as one shell script.

The script does in overlays of this machine's own file system what `docker build` and `docker run
--read-only` do in images: RUN lines run as they stand, in a root of their own; the last stage then
starts as its user, without a writable path but its volume and `/tmp`. It needs root and Linux. What
no overlay can show: the base images themselves.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FORWARDED = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE", "PIP_CERT", "HTTPS_PROXY")
"""How this machine reaches packages; an image's builder has it from `docker build --build-arg`."""


@dataclass(slots=True)
class Stage:
    """What stands between two FROM lines."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str:
        """The value of the last instruction of this kind."""
        return [value for kind, value in self.steps if kind == instruction][-1]

    @property
    def command(self) -> list[str]:
        """What it starts: its ENTRYPOINT with its CMD."""
        return [*json.loads(self.last("ENTRYPOINT")), *json.loads(self.last("CMD"))]

    @property
    def env(self) -> dict[str, str]:
        """What its ENV lines set."""
        lines = (value for kind, value in self.steps if kind == "ENV")
        return dict(part.split("=", 1) for value in lines for part in shlex.split(value))

    @property
    def health(self) -> list[str]:
        """The command of its HEALTHCHECK."""
        command: list[str] = json.loads(self.last("HEALTHCHECK").split("CMD", 1)[1])
        return command


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction with its value, on one line."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        if line.strip():
            kind, value = line.strip().split(maxsplit=1)
            yield kind.upper(), " ".join(value.split()) if kind != "RUN" else value


def stages(text: str) -> dict[str, Stage]:
    """The stages of a Dockerfile by their names, each base with its ARG put in."""
    found: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    for kind, value in instructions(text):
        if kind == "ARG" and not found:
            name, _, default = value.partition("=")
            arguments[name] = default
        elif kind == "FROM":
            base, _, name = value.partition(" AS ")
            for argument, default in arguments.items():
                base = base.replace(f"${{{argument}}}", default)
            found[name] = Stage(base, name)
        else:
            next(reversed(found.values())).steps.append((kind, value))
    return found


def read() -> dict[str, Stage]:
    """The stages of the project's own."""
    return stages((ROOT / "Dockerfile").read_text())


def script(python: Path, environ: Mapping[str, str], command: list[str]) -> str:
    """A bash script that builds the gateway's image from this checkout and becomes `command` in it.

    It is for a mount namespace of its own (`unshare --mount`), whose end takes everything away.
    `python` stands for that of the base image.
    """
    both = read()
    lines = ["set -euo pipefail", "here=$(mktemp -d)", "mount -t tmpfs tandem $here"]
    for stage in (both["build"], both["gateway"]):
        lines += [f"here_{stage.name}=$here/{stage.name}/root", *_base(stage, python)]
        lines += [line for step in stage.steps for line in _step(stage, *step, environ)]
    final = both["gateway"]
    root, home = "$here_gateway", final.last("WORKDIR")
    env = [f"{name}={value}" for name, value in final.env.items()]
    lines += [
        f"mount -t tmpfs -o mode=1777 tandem {root}/tmp",  # noqa: S108  # the image's own
        f"mkdir $here/state && mount --bind $here/state {root}{home}",
        f"chown {final.last('USER')} $here/state",
        f"mount -o remount,ro {root}",
        f"cd / && exec chroot --userspec={final.last('USER')} {root} env -i {shlex.join(env)} \\",
        f"  sh -c 'cd {home} && exec \"$@\"' sh {shlex.join(command)}",
    ]
    return "\n".join(lines) + "\n"


def _base(stage: Stage, python: Path) -> list[str]:
    """A root that can be written to, over this machine's own, with a `python` for everybody."""
    root, parents = f"$here_{stage.name}", [str(p) for p in python.parents if p != Path("/")]
    return [
        f"mkdir -p $here/{stage.name}/{{root,upper,work}}",
        f"layers=lowerdir=/,upperdir=$here/{stage.name}/upper,workdir=$here/{stage.name}/work",
        f"mount -t overlay -o $layers tandem {root}",
        f"mount -t proc proc {root}/proc",
        f"mount --rbind /dev {root}/dev",
        f"rm -rf {root}/opt/tandem {root}/src {root}/wheels",
        f"mkdir -p {root}/usr/local/bin",
        f"""printf '#!/bin/sh\\nexec {python} "$@"\\n' >{root}/usr/local/bin/python""",
        f"chmod a+x {root}/usr/local/bin/python",
        *(f"chmod a+x {root}{parent}" for parent in parents),
    ]


def _step(stage: Stage, kind: str, value: str, environ: Mapping[str, str]) -> list[str]:
    root = f"$here_{stage.name}"
    seen = [part for kind, part in stage.steps if kind == "WORKDIR"]
    where = seen[0] if seen and stage.name == "build" else "/"
    if kind == "WORKDIR":
        return [f"mkdir -p {root}{value}"]
    if kind == "RUN":
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root"}
        env |= {name: environ[name] for name in FORWARDED if name in environ}
        passed = shlex.join(f"{name}={text}" for name, text in env.items())
        run = shlex.quote(f"cd {where} && {value}")
        return [f"chroot {root} env -i {passed} sh -ec {run}"]
    if kind == "COPY":
        *sources, target = value.split()
        if sources[0].startswith("--from="):
            before = f"$here_{sources.pop(0).removeprefix('--from=')}"
            return [
                f"mkdir -p {root}{Path(target).parent}",
                f"cp -a {before}{sources[0]} {root}{target}",
            ]
        into = f"{root}{where}/{target}"
        if len(sources) == 1 and not target.endswith("/"):
            return [f"mkdir -p $(dirname {into}) && cp -a {ROOT / sources[0]} {into}"]
        return [f"cp -a {shlex.join(str(ROOT / source) for source in sources)} {into}"]
    return []
