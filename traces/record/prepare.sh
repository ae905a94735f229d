#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Make DIR/tools: a Debian root file system with the tools, wheels and sources that the
# recipes use. Needs root, mmdebstrap and network; everything comes from the suite's and
# the index's present state, so a later recording differs in versions.
set -eu
[ $# -eq 1 ] || { echo "usage: prepare.sh DIR" >&2; exit 2; }
tools=$1/tools
mkdir -p "$1"
mirror=$(sed -n 's/^URIs: *//p; s/^deb \(\[.*\] \)\{0,1\}\([^ ]*\).*/\2/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -n 1)
mmdebstrap --variant=apt --skip=check/empty --aptopt='APT::Install-Recommends "false"' \
    --include=gcc,libc6-dev,make,git,sqlite3,python3,python3-venv,python3-pip,ca-certificates,gawk \
    trixie "$tools" "$mirror"
mkdir -p "$tools/files/wheels" "$tools/files/sdists" "$tools/task"
python3 -m pip download -q -d "$tools/files/wheels" --only-binary :all: --python-version 3.13 \
    --implementation cp --abi cp313 --platform manylinux2014_x86_64 \
    --platform manylinux_2_28_x86_64 numpy pandas pytest hypothesis flask rich pip
python3 -m pip download -q -d "$tools/files/sdists" --no-deps --no-binary zstandard,brotli \
    zstandard brotli
chroot "$tools" python3 -m venv /opt/venv
chroot "$tools" /opt/venv/bin/pip install -q --no-index --find-links /files/wheels \
    pandas pytest hypothesis
