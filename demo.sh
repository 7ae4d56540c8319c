#!/usr/bin/env bash
# Set up the environments and make the demo with Blender: demo.blend with a talking character, demo.mp4 with sound, and
# demo.png, a contact sheet. Options are passed to demo.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bash setup.sh
exec .venv/blender-5.0/bin/python demo.py "$@"
