#!/usr/bin/env bash
# Sets everything up and does the artist's whole job through Blender: demo.blend with a talking character in it,
# demo.mp4 with sound, and demo.png, a contact sheet of it. Options are handed on; see demo.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bash setup.sh
exec .venv/blender-5.0/bin/python demo.py "$@"
