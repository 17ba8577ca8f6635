#!/bin/bash
# isal.sh: fetches the newest libisal that Debian's suites have, once, and prints the library's path.
#
#   cargo bench -p cairn-raid runs it beside our kernels, and says so if it isn't there.
#   SUITES="trixie sid" isal.sh      other suites to choose from
#   isal.sh --again                  looks for a newer one
#
# The package comes from the mirror that this machine uses already, checked against Debian's keyring as
# apt does it. Nothing is installed: it is unpacked below CAIRN_LAB (~/.cache/cairn-lab), and its
# version is beside it.
set -eu

suites=${SUITES:-stable testing unstable}
lab=${CAIRN_LAB:-${XDG_CACHE_HOME:-$HOME/.cache}/cairn-lab}
isal=$lab/isal

[ "${1:-}" != --again ] || rm -rf "$isal"
if [ -e "$isal/version" ]; then
  echo "$isal/libisal.so.2"
  exit 0
fi

rm -rf "$isal"
apt=$isal/apt
mkdir -p "$apt/lists/partial"

# The first Debian mirror among this machine's sources, in either of the formats that apt reads.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
  grep -v '^ *#' | grep -oE '(https?|file)://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' ')
if [ -z "$mirror" ]; then
  echo "isal.sh: no Debian mirror among the sources in /etc/apt; put libisal.so.2 and a file version in $isal" >&2
  exit 1
fi
for suite in $suites; do
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
done >"$apt/sources.list"

# Lists and caches of its own, so that the machine's stay as they are; and none of its packages, so that nothing
# that is installed keeps an older version in front.
: >"$apt/status"
options=(-q
  -oDir::State::Lists="$apt/lists"
  -oDir::State::status="$apt/status"
  -oDir::Cache="$apt"
  -oAcquire::Retries=0
  -oAcquire::http::Timeout=10
  -oAcquire::https::Timeout=10
  -oDir::Etc::SourceList="$apt/sources.list"
  -oDir::Etc::SourceParts=/dev/null
  -oDir::Etc::Preferences=/dev/null
  -oDir::Etc::PreferencesParts=/dev/null
  -oAcquire::Languages=none
  -oAPT::Sandbox::User=root)

{
  apt-get "${options[@]}" update
  cd "$apt"
  # The highest version of all suites.
  apt-get "${options[@]}" download libisal2
  package=$(ls ./libisal2_*.deb)
  dpkg-deb -x "$package" "$apt/root"
  cp -L "$apt"/root/usr/lib/*/libisal.so.2 "$isal/libisal.so.2"
  version=$(dpkg-deb -f "$package" Version)
  cd /
  rm -rf "$apt"
} >&2

# Last: what is complete has a version.
echo "$version" >"$isal/version"
echo "$isal/libisal.so.2"
