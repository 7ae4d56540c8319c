#!/usr/bin/env bash
# Create .venv/worker (torch, librosa, opencv) and .venv/blender-5.0 (bpy). Environments that are up to date are kept.
#
#   bash setup.sh               the environments for rendering, the demo and Blender
#   bash setup.sh --tests       also those for the tests: training, farm, the oldest and the newest Blender
#
# Runs on Linux, on macOS (its bash is version 3.2) and in Git Bash on Windows. Only on Debian and Ubuntu it also installs
# system packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

# python_in NAME : print the path of the Python in .venv/NAME.
python_in() {
    local folder=.venv/$1
    [[ -d $folder/Scripts ]] && echo "$folder/Scripts/python.exe" || echo "$folder/bin/python"
}

# hash_of FILE... : print the SHA-256 of the concatenated files, and a dash.
hash_of() {
    if command -v sha256sum >/dev/null; then cat "$@" | sha256sum; else cat "$@" | shasum -a 256; fi
}

# python_of MINOR : print the path of a Python 3.MINOR, from PATH or from pyenv's versions.
python_of() {
    local candidate
    for candidate in "python3.$1" python3 python "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$1".*/bin/python; do
        if "$candidate" -c "import sys; sys.exit(sys.version_info[:2] != (3, $1))" 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# Required libraries, each with its Debian package. Sonames, because package names differ between releases.
LIBRARIES="
    libGL.so.1          libgl1
    libEGL.so.1         libegl1
    libEGL_mesa.so.0    libegl-mesa0
    libgthread-2.0.so.0 libglib2.0-0
    libX11.so.6         libx11-6
    libXrender.so.1     libxrender1
    libXfixes.so.3      libxfixes3
    libXi.so.6          libxi6
    libxkbcommon.so.0   libxkbcommon0
    libSM.so.6          libsm6
    libICE.so.6         libice6
    libespeak-ng.so.1   libespeak-ng1"

missing_packages() {
    local known soname package
    if known=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null); then
        while read -r soname package; do
            [[ -z $soname || $known == *"$soname "* ]] || echo "$package"
        done <<<"$LIBRARIES"
        compgen -G '/usr/lib*/*/dri/*_dri.so' >/dev/null || echo libgl1-mesa-dri
    fi
    command -v espeak-ng >/dev/null || echo espeak-ng
    "$PYTHON" -c 'import ensurepip' 2>/dev/null || echo python3.11-venv
}

install_system_packages() {
    local -a packages=() as_root=()
    local log=.venv/apt-get.log package
    if [[ $SYSTEM != Linux ]]; then
        command -v espeak-ng >/dev/null || say "espeak-ng was not found; tests that make speech with it are skipped"
        return
    fi
    while read -r package; do packages+=("$package"); done < <(missing_packages)
    ((${#packages[@]})) || return 0
    local command="apt-get install -y --no-install-recommends ${packages[*]}"
    if ((EUID)); then
        as_root=(sudo -n)
        sudo -n true 2>/dev/null || fail "system packages are missing; install them with: sudo $command"
    fi
    command -v apt-get >/dev/null || fail "apt-get is missing; install these packages (Debian names): ${packages[*]}"
    say "installing system packages: ${packages[*]}"
    as_root+=(env DEBIAN_FRONTEND=noninteractive)
    # The packages may be available even if the package lists cannot be updated.
    "${as_root[@]}" apt-get update >"$log" 2>&1 || true
    # shellcheck disable=SC2086  # one word per package
    "${as_root[@]}" $command >>"$log" 2>&1 || { tail -n 5 "$log" >&2; fail "this command failed: $command"; }
}

# pip_install NAME OPTION... : install into .venv/NAME; tried twice, because downloads fail now and then.
pip_install() {
    local name=$1 log=.venv/$1.log
    shift
    local -a command=("$(python_in "$name")" -m pip --disable-pip-version-check install --no-input "$@")
    "${command[@]}" >"$log" 2>&1 && return
    say "$name: pip failed, trying again"
    "${command[@]}" >"$log" 2>&1 || { tail -n 15 "$log" >&2; fail "$name: pip failed, see $log"; }
}

# ready NAME STAMP HASH : whether the environment exists and was completed from requirement files with this hash.
ready() {
    local venv=.venv/$1
    [[ -x $(python_in "$1") && -f $venv/$2 && $(<"$venv/$2") == "$3"* ]]
}

# environment NAME PYTHON FILE... : create .venv/NAME with the packages that the FILEs pin. The stamp (hash and names of
# the files) is written last, so that an interrupted environment is created again. Each file is installed by itself,
# because pip checks hashes for all files of a call or for none.
environment() {
    local name=$1 python=$2 hash started=$SECONDS file
    local -a locked
    shift 2
    hash=$(hash_of "$@")
    if ready "$name" .stamp "$hash"; then
        echo "$hash $*" >".venv/$name/.stamp" # a file may have another name now
        return
    fi
    say "$name: installing $(cat "$@" | grep -c '==') packages, a few minutes"
    rm -rf ".venv/$name"
    "$python" -m venv ".venv/$name"
    for file in "$@"; do
        [[ $file == wheels/locks/* ]] && locked=(--require-hashes --no-deps) || locked=()
        pip_install "$name" ${locked[@]+"${locked[@]}"} "--requirement=$file" # bash 3.2 has no empty arrays
    done
    echo "$hash $*" >".venv/$name/.stamp"
    say "$name: ready after $((SECONDS - started)) s"
}

# worker_lock : print the lock that .venv/worker was or will be created from. On Linux torch for the CPU if pip finds it,
# else torch for CUDA, which PyPI has; it is much larger and also runs without a card.
worker_lock() {
    local lock locks trial
    case $SYSTEM in
        Linux) locks=wheels/locks/linux-$(uname -m) ;;
        Darwin) locks=wheels/locks/macos-$(uname -m) ;;
        *) locks=wheels/locks/windows-$(uname -m) ;;
    esac
    for lock in "$locks"-{cpu,cuda,mps}-py311.txt; do
        if [[ -f $lock ]] && ready worker .stamp "$(hash_of "$lock" $DEVELOPMENT)"; then
            echo "$lock"
            return
        fi
    done
    if [[ $SYSTEM != Linux ]]; then
        for lock in "$locks"-{cpu,mps}-py311.txt; do
            [[ ! -f $lock ]] || echo "$lock"
        done
        return
    fi
    [[ -f $locks-cpu-py311.txt ]] || return 0
    trial=$(mktemp -d)
    "$PYTHON" -m venv "$trial"
    if "$trial/bin/python" -m pip install --dry-run --no-deps --quiet "$(grep -o '^torch==[^ ]*' "$locks-cpu-py311.txt")" \
        >.venv/torch.log 2>&1; then
        echo "$locks-cpu-py311.txt"
    else
        echo "$locks-cuda-py311.txt"
    fi
    rm -rf "$trial"
}

# Installed without dependencies: only the data of the mesh package is used, not the simulation packages it depends on.
training_extras() {
    local hash file=wheels/requirements-training.txt
    hash=$(hash_of "$file")
    ready worker .stamp-training "$hash" && return
    say "worker: installing the packages for training"
    pip_install worker --no-deps "--requirement=$file"
    echo "$hash" >.venv/worker/.stamp-training
}

case "${1-}" in '' | --tests) ;; *) fail "unknown option '$1'; usage: bash setup.sh [--tests]" ;; esac

SYSTEM=$(uname -s)
mkdir -p .venv
if command -v flock >/dev/null; then # not on macOS and Windows
    exec 9>.venv/.lock
    flock -n 9 || { say "waiting for another set-up to finish"; flock 9; }
fi
PYTHON=$(python_of 11) || fail "Python 3.11 is required, found $(python3 --version 2>/dev/null || echo none);" \
    "install it, on Debian 12 with: apt-get install python3.11 python3.11-venv"
install_system_packages
DEVELOPMENT=wheels/requirements-development.txt
LOCK=$(worker_lock)
[[ -n $LOCK ]] || fail "there are no PyTorch packages for this kind of machine ($SYSTEM $(uname -m))"
environment worker "$PYTHON" "$LOCK" $DEVELOPMENT
environment blender-5.0 "$PYTHON" wheels/requirements-blender-5.0.txt $DEVELOPMENT
[[ ${1-} == --tests ]] || exit 0
training_extras
environment farm "$PYTHON" wheels/requirements-farm.txt
environment blender-4.5 "$PYTHON" wheels/requirements-blender-4.5.txt $DEVELOPMENT
if NEWER=$(python_of 13); then
    environment blender-5.2 "$NEWER" wheels/requirements-blender-5.2.txt $DEVELOPMENT
else
    say "Python 3.13 was not found; the tests skip Blender 5.2"
fi
