# Sourced by the other scripts. Finds a supported Python, keeps a virtual environment with the pinned dependencies in it,
# and installs only when the lock file, pyproject.toml or the place of the checkout has changed since the last time.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
SUPPORTED="3.13 3.12 3.11" # newest first: newer JAX is much faster on CPU

# find_python VERSION: prints an interpreter of that version that runs and can make virtual environments.
find_python() {
  local candidate probe
  probe="import ensurepip, sys, sysconfig, venv
sys.exit('%d.%d' % sys.version_info[:2] != '$1' or bool(sysconfig.get_config_var('Py_GIL_DISABLED')))"
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python3 \
    "$HOME/.local/share/uv/python/cpython-$1".*/bin/python3 python3 python; do
    # Being there is not enough: a pyenv shim exists for versions that are not selected.
    if "$candidate" -c "$probe" >/dev/null 2>&1; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  return 1
}

# newest_python: prints the newest supported interpreter of this machine.
newest_python() {
  local version
  for version in $SUPPORTED; do
    find_python "$version" && return
  done
  echo "no usable Python found: one of $SUPPORTED is needed, with its venv module (Debian: python3-venv)" >&2
  return 1
}

# make_venv DIR [PYTHON]: makes the environment DIR, if there is none that works, with PYTHON or the newest.
make_venv() {
  local python="${2:-}"
  if "$1/bin/python" -c 'import pip' >/dev/null 2>&1; then return; fi
  if [ -z "$python" ]; then python="$(newest_python)" || return; fi
  echo "making $1 with $("$python" --version)" >&2
  "$python" -m venv --clear "$1"
}

# ensure_venv DIR EXTRA [PYTHON]: makes DIR an environment with this package and EXTRA (demo or dev) installed.
# What dev installs satisfies demo too, and an environment never loses its dev extra.
ensure_venv() {
  local dir="$1" extra="$2" stamp="$1/.orca-jax-stamp" due installed=""
  make_venv "$dir" "${3:-}" || return
  due="$(cd "$ROOT" && "$dir/bin/python" -c 'import hashlib, pathlib, sys
print(hashlib.sha256(b"".join(pathlib.Path(p).read_bytes() for p in sys.argv[1:])).hexdigest())' \
    requirements.lock pyproject.toml) $ROOT" || return
  if [ -f "$stamp" ]; then installed="$(cat "$stamp")"; fi
  case "$installed" in *" dev") extra=dev ;; esac
  if [ "$installed" = "$due $extra" ]; then return; fi
  rm -f "$stamp"
  echo "installing orca-jax and its pinned dependencies ($extra) into $dir, once" >&2
  (cd "$ROOT" && "$dir/bin/python" -m pip install --quiet --quiet --disable-pip-version-check \
    --constraint requirements.lock --editable "$([ "$extra" = dev ] && echo '.[dev]' || echo .)") || return
  echo "$due $extra" >"$stamp"
}
