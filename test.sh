#!/usr/bin/env bash
# Sets everything up and runs all tests: the engine's under .venv/worker, the add-on's under each Blender of
# .venv/blender-*, and those of the contracts that both sides share (tests/unit) under each of them. Options are handed
# on, for example: bash test.sh -k bank
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bash setup.sh --tests

NO_TESTS=5 # pytest's exit status when nothing was selected, as -k may well do in one of the environments
OPTIONS=("$@")
results=() ran=0 failed=0

# run ENVIRONMENT FOLDER...
run() {
    local name=$1 status=0 outcome=passed
    shift
    echo "== $name: $*"
    # Blender 4.5 may hang when Python ends; nothing here takes half as long.
    timeout --kill-after=10 1500 ".venv/$name/bin/python" -m pytest "$@" "${OPTIONS[@]}" || status=$?
    case $status in
        0) ran=1 ;;
        "$NO_TESTS") outcome="nothing selected" ;;
        *) outcome="FAILED" failed=1 ;;
    esac
    results+=("$name $outcome")
}

shopt -s nullglob # a folder that is not there is left out
run worker tests/unit tests/inference* tests/training* tests/farm*
for environment in .venv/blender-*/; do
    run "$(basename "$environment")" tests/unit tests/blender* tests/package*
done

echo "== $(IFS=,; echo "${results[*]}" | sed 's/,/, /g')"
((ran && !failed))
