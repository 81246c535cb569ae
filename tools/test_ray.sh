#!/usr/bin/env bash
# Jobs on a real Ray cluster of two logical GPUs on this machine, in an environment of its own:
# Ray and ovphysx want different versions of packaging. Safe to run again; sets itself up.
set -u
cd "$(dirname "$0")/.."
venv=.venv-ray
stamp=$venv/.ready
if ! [ -e $stamp ] || [ pyproject.toml -nt $stamp ] || [ constraints-ray.txt -nt $stamp ]; then
  start=$SECONDS
  python=${PYTHON:-$(tools/find_python.sh 3.11 3.12)}
  "$python" -m venv $venv || exit 1
  $venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-ray.txt \
    -e ".[bridge,ray]" grpcio-health-checking prometheus-client pytest pytest-timeout || exit 1
  touch $stamp
  echo "$venv was made in $((SECONDS - start)) s"
fi
$venv/bin/python -m pytest -q -p no:cacheprovider --durations=5 tests/ray
