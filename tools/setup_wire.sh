#!/usr/bin/env bash
# Makes .venv-wire-4.25 and .venv-wire-5.29: the client with the oldest and a middle protobuf runtime
# (the newest is in .venv). Safe to run again. Exit 0: ready. Exit 77: not possible here, and why.
set -u
cd "$(dirname "$0")/.."

skip() { echo "protobuf runtimes: skipped: $*"; exit 77; }

make_venv() { # VERSION PACKAGE...
  local venv=".venv-wire-$1"; shift
  [ -e "$venv/.ready" ] && return
  python=$(tools/find_python.sh 3.11 3.12) && [ -n "$python" ] || skip "needs Python 3.11 or 3.12"
  "$python" -m venv "$venv" || skip "$python cannot make a virtual environment"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy "$@" \
    || skip "pip could not install $*"
  touch "$venv/.ready"
}

make_venv 4.25 "grpcio==1.62.3" "protobuf==4.25.*"
make_venv 5.29 "grpcio==1.71.*" "protobuf==5.29.*"
echo "protobuf runtimes: ready in .venv-wire-4.25 and .venv-wire-5.29"
