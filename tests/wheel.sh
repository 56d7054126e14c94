#!/usr/bin/env bash
# The wheel, as a stranger gets it: built, installed into a fresh environment outside the checkout, and run there.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

uv build --quiet --wheel --out-dir "$place" "$checkout"
uv venv --quiet --python "$checkout/.venv/bin/python" "$place/venv"
uv pip install --quiet --python "$place/venv/bin/python" "$place"/cutaway-*.whl

cd "$place"
export PATH="$place/venv/bin:/usr/bin:/bin"
unset PYTHONPATH
cutaway --version
cutaway methods --json > methods.json
cutaway demo -o report.html
test -s report.html
python - <<'PY'
import json, pathlib, cutaway
home = pathlib.Path(cutaway.__file__)
assert "site-packages" in home.parts, f"run from {home}, not from the wheel"
listed = json.load(open("methods.json"))["methods"]
assert listed, "the wheel holds no method"
assert (home.parent / "py.typed").exists(), "py.typed is not in the wheel"
print(f"wheel: {len(listed)} methods, demo {pathlib.Path('report.html').stat().st_size / 1e6:.1f} MB")
PY
