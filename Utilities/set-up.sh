#!/bin/sh
# Makes the virtual environment $1 with Python $2: system libraries, then the pinned packages, then this project.
set -eu
venv=$1
python=$2

# What VTK (OpenGL without a display) and Qt (off-screen) load at run time.
libraries="libEGL.so.1 libGL.so.1 libOSMesa.so libX11.so.6 libXrender.so.1 libSM.so.6 libxkbcommon.so.0 libdbus-1.so.3 \
libfontconfig.so.1 libglib-2.0.so.0"
packages="libegl1 libgl1 libgl1-mesa-dri libosmesa6 libx11-6 libxrender1 libsm6 libxkbcommon0 libdbus-1-3 libfontconfig1 \
libglib2.0-0 fonts-dejavu-core"

missing=""
known=$(ldconfig -p 2>/dev/null || /sbin/ldconfig -p)
for library in $libraries; do
    case $known in *"$library"*) ;; *) missing=yes ;; esac
done
command -v uv >/dev/null 2>&1 || "$python" -c "import venv, ensurepip" 2>/dev/null || missing=yes

if [ -n "$missing" ]; then
    # Debian 13 and Ubuntu 24.04 drop OSMesa or rename packages: take those that this release has.
    packages="$packages python3 python3-venv"
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        apt-get update -qq
        available=""
        for package in $packages; do
            if apt-cache show "$package" >/dev/null 2>&1; then available="$available $package"; fi
        done
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $available >/dev/null
    elif "$python" -c "import venv, ensurepip" 2>/dev/null || command -v uv >/dev/null 2>&1; then
        echo "Some graphics libraries are missing. If pictures fail: sudo apt-get install$(printf ' %s' $packages)" >&2
    else
        echo "Python cannot make a virtual environment. Run: sudo apt-get install python3 python3-venv" >&2
        exit 1
    fi
fi

"$python" - <<'PY'
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("Python 3.11 to 3.13 is needed, this is %d.%d: call make with PYTHON=python3.12" % sys.version_info[:2])
PY

echo "Setting up $venv (about 1.3 GB; once, a few minutes)"
if command -v uv >/dev/null 2>&1; then
    uv venv --quiet --seed --allow-existing --python "$python" "$venv"
    uv pip install --quiet --python "$venv/bin/python" -c requirements/constraints.txt -e '.[headless,test]'
else
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt -e '.[headless,test]'
fi
# Compiled once here, so that no first picture waits for it.
"$venv/bin/python" -m sacroplasty.xray.compiled
touch "$venv/.ready"
