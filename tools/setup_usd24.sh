#!/usr/bin/env bash
# Makes .venv-usd24: OpenUSD 24.5 on Python 3.11, as in Isaac Sim 5.1. Safe to run again.
# Exit 0: ready. Exit 77: not possible here, and it says why.
set -u
cd "$(dirname "$0")/.."
venv=.venv-usd24

skip() { echo "OpenUSD 24.5: skipped: $*"; exit 77; }

if ! [ -e "$venv/.ready" ]; then
  python=$(tools/find_python.sh 3.11) && [ -n "$python" ] || skip "needs Python 3.11"
  "$python" -m venv "$venv" || skip "$python cannot make a virtual environment"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "usd-core==24.5" "numpy<2" scipy pytest pytest-timeout hypothesis || skip "pip could not install it"
  touch "$venv/.ready"
fi
echo "OpenUSD 24.5: ready in $venv"
