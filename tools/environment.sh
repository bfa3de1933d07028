#!/bin/sh
# Makes .venv and installs the course into it, at the versions of constraints.txt. `make` calls it when they changed.
#
#   PYTHON=python3.12     the interpreter to use, else the first on the PATH that is new enough
#   EXTRAS=test,data      what to install besides the course: data adds streamed corpora (0.1 GB to download),
#                         tensorboard the library that writes its curves (25 MB)
#   TORCH_FLAGS=...       further flags for pip when it installs torch, e.g. an index of smaller CPU builds
set -eu
cd "$(dirname "$0")/.."
say() { printf '%s\n' "$*" >&2; }
bound() { sed -n "s/^requires-python = \">=\([0-9.]*\),<\([0-9.]*\)\".*/\\$1/p" pyproject.toml | tr . ,; }
floor=$(bound 1)
ceiling=$(bound 2)
fits() { "$1" -c "import sys; sys.exit(not ($floor) <= sys.version_info < ($ceiling))" 2>/dev/null; }

python=${PYTHON:-}
if [ -z "$python" ]; then
    for one in python3 python3.14 python3.13 python3.12 python3.11; do
        if fits "$one"; then python=$one; break; fi
    done
fi
if [ -z "$python" ] || ! fits "$python"; then
    found=$( (${python:-python3} --version) 2>&1 || true)
    say "The course needs Python $(bound 1 | tr , .) or newer, older than $(bound 2 | tr , .); found: $found."
    say "Install another Python, then run make again, or name one: make lab PYTHON=python3.12"
    exit 1
fi
if [ "$(uname -s)-$(uname -m)" = Darwin-x86_64 ]; then
    say "PyTorch is no longer made for Macs with an Intel processor. Use another machine, or Binder (see README)."
    exit 1
fi
if [ "$(uname -s)" = Darwin ] && [ "$(sw_vers -productVersion | cut -d. -f1)" -lt 14 ]; then
    say "PyTorch needs macOS 14 or newer; this is macOS $(sw_vers -productVersion). Use another machine, or Binder (see README)."
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    say "$python cannot make environments: its venv module is missing. On Debian or Ubuntu: apt-get install python3-venv"
    exit 1
fi

if [ ! -x .venv/bin/python ]; then
    say "Making .venv with $("$python" --version). To be downloaded, unless pip has it already:"
    case "$(uname -s)" in
        Linux) say "  PyTorch for Linux: 2 to 3 GB with NVIDIA's libraries (0.2 GB where pip finds a CPU build);" ;;
        *) say "  PyTorch: 0.1 GB;" ;;
    esac
    say "  everything else, JupyterLab included: 0.2 GB. On disk 2 GB; with NVIDIA's libraries several more."
    say "This happens once and takes some minutes. Later calls start at once."
    "$python" -m venv .venv
fi
pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install"
# shellcheck disable=SC2086  # the flags are several words
$pip ${TORCH_FLAGS:-} torch -c constraints.txt
$pip -e ".[${EXTRAS:-test}]" -c constraints.txt
# The browser tests ask axe-core what keyboards and screen readers cannot use. Without npm they leave that out, and say so.
case ",${EXTRAS:-test}," in
    *,test,*)
        if command -v npm >/dev/null 2>&1; then
            npm install --no-audit --no-fund --silent --prefix .venv/axe axe-core@4.14.1 ||
                say "npm could not install axe-core: the browser tests leave accessibility out."
        fi
        ;;
esac
touch .venv/.ready
