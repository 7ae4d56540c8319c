#!/usr/bin/env bash
# Set up the environments, check style and types, and run the tests.
#
#   bash test.sh                      everything
#   bash test.sh --fast               for daily work: no test that is marked slow, only the newest Blender, and
#                                     tests/unit only once
#   bash test.sh [--fast] OPTION...   options for pytest, for example: bash test.sh -k bank
#
# .venv/worker runs the tests of the engine, of training and of farm jobs. Every .venv/blender-* runs the add-on's tests.
# tests/unit runs in all of them. Two suites run at a time. The output is also written to build/test/. No time limit
# stops a test; pytest prints the stack of each thread when a test runs for longer than faulthandler_timeout
# (pyproject.toml).
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

# folders_of SUITE : print the folders with its tests.
folders_of() {
    case $1 in
        worker) echo tests/unit tests/inference ;;
        training) echo tests/training tests/farm tests/fuzz tests/faults ;;
        blender-*) [[ -n $FAST ]] && echo tests/blender tests/package || echo tests/unit tests/blender tests/package ;;
    esac
}

# run SUITE OPTION... : run its tests in .venv/SUITE (training: in .venv/worker); the exit status goes to $LOGS.
run() {
    local suite=$1 status=0
    shift
    # shellcheck disable=SC2046 # several folders
    "$(python_in "${suite/training/worker}")" -m pytest $(folders_of "$suite") "$@" >"$LOGS/$suite.log" 2>&1 || status=$?
    echo "$status" >"$LOGS/$suite.status"
    echo "== $suite: $(folders_of "$suite")"
    cat "$LOGS/$suite.log"
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
while read -r environment; do BLENDERS+=("$(basename "$environment")"); done < <(printf '%s\n' .venv/blender-*/ | sort)
[[ -z $FAST ]] || BLENDERS=("${BLENDERS[${#BLENDERS[@]} - 1]}")
SUITES=(worker "${BLENDERS[@]}" training)
echo "== ${SUITES[*]}, two at a time; the output of each follows when it has ended"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} FAST LOGS
export -f run folders_of python_in
printf '%s\n' "${SUITES[@]}" |
    xargs -P 2 -I SUITE bash -c 'run "$@"' run SUITE ${OPTIONS[@]+"${OPTIONS[@]}"}
for file in "$LOGS"/*.status; do
    status=$(<"$file")
    [[ $status == "$NOTHING_SELECTED" ]] || tested=1
    record "$(basename "$file" .status)" "$status"
done

echo "== Summary"
grep -E '^(FAILED|ERROR) ' "$LOGS"/*.log | sed "s|^$LOGS/\(.*\)\.log:|\1: |" || true
printf '%s\n' "${results[@]}"
[[ -n $tested && -z $failed ]]
