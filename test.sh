#!/usr/bin/env bash
# Set up the environments, check style and types, and run the tests.
#
#   bash test.sh                      everything
#   bash test.sh --fast               for daily work: no test that is marked slow, only the newest Blender, and
#                                     tests/unit only once
#   bash test.sh [--fast] OPTION...   options for pytest, for example: bash test.sh -k bank
#
# .venv/worker runs the tests of the engine, of training and of farm jobs. Every .venv/blender-* runs the add-on's tests.
# tests/unit runs in all of them. The output is also written to build/test/. No time limit stops a test; pytest prints
# the stack of each thread when a test runs for longer than faulthandler_timeout (pyproject.toml).
#
# Runs on Linux, on macOS (its bash is version 3.2) and in Git Bash on Windows. mypy runs on Linux only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

FAST=
OPTIONS=()
for option in "$@"; do
    case $option in
        --fast) FAST=1 ;;
        *) OPTIONS+=("$option") ;;
    esac
done
[[ -z $FAST ]] || OPTIONS=(-m "not slow" ${OPTIONS[@]+"${OPTIONS[@]}"}) # bash 3.2 has no empty arrays

LOGS=build/test
NOTHING_SELECTED=5 # pytest's exit status, which -k causes in some environments
results=() tested= failed=

# python_in NAME : print the path of the Python in .venv/NAME.
python_in() {
    local folder=.venv/$1
    [[ -d $folder/Scripts ]] && echo "$folder/Scripts/python.exe" || echo "$folder/bin/python"
}

# record NAME STATUS : keep the outcome for the summary.
record() {
    local outcome
    case $2 in
        0) outcome=passed ;;
        "$NOTHING_SELECTED") outcome="nothing selected" ;;
        *) outcome="FAILED (status $2)" failed=1 ;;
    esac
    results+=("$1: $outcome")
}

# check NAME COMMAND... : run a check of the sources.
check() {
    local name=$1 status=0
    shift
    echo "== $name"
    "$@" || status=$?
    record "$name" "$status"
}

# run ENVIRONMENT FOLDER... : run the tests of the folders in .venv/ENVIRONMENT; the exit status goes to $LOGS.
run() {
    local name=$1 status=0
    shift
    echo "== $name: $*"
    "$(python_in "$name")" -m pytest "$@" ${OPTIONS[@]+"${OPTIONS[@]}"} 2>&1 | tee "$LOGS/$name.log" || status=$?
    echo "$status" >"$LOGS/$name.status"
}

run_in_blenders() {
    local environment
    for environment in "${BLENDERS[@]}"; do
        run "$(basename "$environment")" "${BLENDER_TESTS[@]}"
    done
}

bash setup.sh --tests
rm -rf "$LOGS"
mkdir -p "$LOGS" build/types

PYTHON=$(python_in worker)
check "ruff check" "$PYTHON" -m ruff check --quiet .
check "ruff format" "$PYTHON" -m ruff format --quiet --check .
if [[ $(uname -s) == Linux ]]; then
    ln -sfn ../.. build/types/edtalk # see tool.mypy in pyproject.toml
    check mypy "$PYTHON" -m mypy
fi

BLENDERS=()
while read -r environment; do BLENDERS+=("$environment"); done < <(printf '%s\n' .venv/blender-*/ | sort)
BLENDER_TESTS=(tests/unit tests/blender tests/package)
if [[ -n $FAST ]]; then
    BLENDERS=("${BLENDERS[${#BLENDERS[@]} - 1]}")
    BLENDER_TESTS=(tests/blender tests/package)
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the tests of the engine and of the add-on run side by side
set -m # so that Ctrl-C is not ignored in the background, which some tests rely on
run_in_blenders >"$LOGS/blender.txt" 2>&1 &
blenders=$!
set +m
trap 'kill -- "-$blenders" 2>/dev/null || true' EXIT
run worker tests/unit tests/inference tests/training tests/farm tests/fuzz tests/faults
echo "== waiting for the tests in Blender"
wait
cat "$LOGS/blender.txt"
for file in "$LOGS"/*.status; do
    status=$(<"$file")
    [[ $status == "$NOTHING_SELECTED" ]] || tested=1
    record "$(basename "$file" .status)" "$status"
done

echo "== Summary"
grep -E '^(FAILED|ERROR) ' "$LOGS"/*.log | sed "s|^$LOGS/\(.*\)\.log:|\1: |" || true
printf '%s\n' "${results[@]}"
[[ -n $tested && -z $failed ]]
