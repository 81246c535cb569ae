#!/usr/bin/env bash
# Runs the parts of the test suite and prints how long each took. Usage: run_tests.sh [PART ...]
# Parts: core (everything in this environment), studio (the window, in .venv-ui), matrix (versions),
# ray (a Ray cluster, in .venv-ray).
set -u
cd "$(dirname "$0")/.."
python=.venv/bin/python
export HF_HUB_OFFLINE=1 MPLBACKEND=Agg
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(core studio matrix ray)
status=0
summary=""
for part in "${parts[@]}"; do
  start=$SECONDS
  case $part in
    core) "$python" -m pytest -q --ignore=tests/studio --ignore=tests/ray --durations=15 tests ;;
    studio) tools/test_studio.sh ;;
    matrix) tools/test_matrix.sh ;;
    ray) tools/test_ray.sh ;;
    *) echo "unknown part '$part'; use core, studio, matrix or ray"; exit 2 ;;
  esac
  result=$?
  [ $result -eq 0 ] || status=1
  summary+="$(printf '%-8s %4d s  exit %d' "$part" $((SECONDS - start)) $result)"$'\n'
done
printf '\n%s' "$summary"
exit $status
