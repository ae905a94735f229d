#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What a fresh Debian needs to build and test: compilers by apt, Python packages in a venv.
# usage: setup.sh VENV
set -eu
venv=$1
python=${PYTHON:-python3}

apt_install() {
  [ "$(id -u)" = 0 ] && sudo= || sudo=sudo
  echo "setup: installing $*"
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq update
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@" >/dev/null
}

have_clang() {
  for number in 22 21 20 19 18 17 16; do command -v "clang-$number" >/dev/null 2>&1 && return 0; done
  clang --version 2>/dev/null | grep -Eq 'version (1[6-9]|[2-9][0-9])\.'
}

newest_clang() {
  apt-cache pkgnames clang- | grep -E '^clang-[0-9]+$' | sort -t- -k2 -n | tail -n 1
}

if command -v apt-get >/dev/null 2>&1; then
  missing=
  command -v gcc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
  command -v make >/dev/null 2>&1 || missing="$missing make"
  [ -e /usr/include/bpf/bpf_helpers.h ] || missing="$missing libbpf-dev"
  "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing python3-venv"
  # shellcheck disable=SC2086  # a list of words on purpose
  [ -z "$missing" ] || apt_install $missing
  if ! have_clang; then
    apt-cache pkgnames clang- 2>/dev/null | grep -q . || apt_install ca-certificates
    clang=$(newest_clang)
    apt_install "${clang:-clang}" "${clang:+llvm-${clang#clang-}}"
  fi
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --editable '.[dev]'
"$venv/bin/python" -c '
import tomllib
for requirement in tomllib.load(open("pyproject.toml", "rb"))["tool"]["agentcgroup"]["without-dependencies"]:
    print(requirement)
' | "$venv/bin/python" -m pip install --quiet --no-deps --requirement /dev/stdin
