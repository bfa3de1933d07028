#!/bin/sh
# Runs tests/peers in .peers, an environment with other people's implementations at the versions of their lock.
set -eu
cd "$(dirname "$0")/.."
say() { printf '%s\n' "$*" >&2; }
lock=tests/peers/requirements.lock
if [ ! -f "$lock" ]; then
    say "make peers: there is no $lock yet, so nothing was compared."
    exit 0
fi
if [ "$(uname -s)" != Linux ]; then
    say "make peers: other people's implementations are installed on Linux only; nothing was compared."
    exit 0
fi
if [ ! -f .peers/.ready ] || [ "$lock" -nt .peers/.ready ] || [ constraints.txt -nt .peers/.ready ]; then
    [ -x .peers/bin/python ] || .venv/bin/python -m venv .peers
    .peers/bin/python -m pip install torch -c constraints.txt
    .peers/bin/python -m pip install --no-deps -r "$lock"
    .peers/bin/python -m pip install --no-deps -e .
    touch .peers/.ready
fi
OMP_NUM_THREADS=1 .peers/bin/python -m pytest tests/peers
OMP_NUM_THREADS=2 .peers/bin/python -m nl_course.benches peers
