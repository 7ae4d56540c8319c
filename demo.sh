#!/usr/bin/env bash
# Sets everything up and renders the demo: demo.mp4 with sound, and demo.png, a contact sheet of it.
# Options are handed on, for example: bash demo.sh --size 256
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bash setup.sh
exec .venv/worker/bin/python -m inference demo --out demo.mp4 --sheet demo.png "$@"
