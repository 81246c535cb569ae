#!/usr/bin/env bash
# Prints the first interpreter of the wanted versions that really runs and can make environments.
# Candidates are run, not looked up: shims of version managers exist without an interpreter behind.
for version in "$@"; do
  for candidate in "python$version" python3 python; do
    if "$candidate" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then
      "$candidate" -c "import sys; print(sys.executable)"
      exit 0
    fi
  done
  # pyenv hides other versions unless one is named.
  if command -v pyenv >/dev/null 2>&1; then
    name=$(pyenv versions --bare 2>/dev/null | grep -E "^$version\." | tail -n 1)
    if [ -n "$name" ] && PYENV_VERSION=$name "python$version" -c "import venv, ensurepip" 2>/dev/null; then
      PYENV_VERSION=$name "python$version" -c "import sys; print(sys.executable)"
      exit 0
    fi
  fi
done
exit 0
