#!/bin/sh
# Installs what some tests of the device link need beside Python: the OpenIGTLink library of C++ with its examples, a
# compiler, and `ip` for networks of the tests' own. Without these the tests are skipped and say so.
set -eu
packages="g++ libopenigtlink-dev openigtlink-examples iproute2"

missing=""
for package in $packages; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -d /usr/share/doc/openigtlink-examples/examples ] || missing="$missing openigtlink-examples"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "Some tests will be skipped. To run them: sudo apt-get install$missing" >&2
    exit 0
fi
apt-get update -qq
# Small images leave out documentation, which is where the examples lie.
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --reinstall \
    -o Dpkg::Options::="--path-include=/usr/share/doc/openigtlink-examples/*" $missing >/dev/null ||
    echo "Not all of$missing could be installed; some tests will be skipped" >&2
