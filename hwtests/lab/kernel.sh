#!/bin/bash
# kernel.sh: fetches a stock Debian kernel for vm.sh, once, and prints the directory that holds it.
#
#   kernel.sh            the release in SUITE (trixie, Linux 6.12)
#   SUITE=trixie-backports kernel.sh      a newer one
#   SUITE=bullseye kernel.sh              an old one (Linux 5.10)
#
# The host's own release may be too old to have ublk, so the package comes from the release named by
# SUITE, from the mirror that this machine uses already, checked against Debian's keyring as apt does
# it. Nothing is installed: the package is unpacked below CAIRN_LAB (~/.cache/cairn-lab).
set -eu

suite=${SUITE:-trixie}
lab=${CAIRN_LAB:-${XDG_CACHE_HOME:-$HOME/.cache}/cairn-lab}
kernel=$lab/kernel-$suite

if [ -e "$kernel/complete" ]; then
  echo "$kernel"
  exit 0
fi

rm -rf "$kernel"
mkdir -p "$kernel/apt/lists/partial"
apt=$kernel/apt

# The first Debian mirror among this machine's sources, in either of the formats that apt reads.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
  grep -v '^ *#' | grep -oE '(https?|file)://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' ')
if [ -z "$mirror" ]; then
  echo "kernel.sh: no Debian mirror among the sources in /etc/apt; put a kernel of yours in $kernel" >&2
  exit 1
fi
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"

# Lists of its own, so that the machine's stay as they are.
options=(-q
  -oDir::State::Lists="$apt/lists"
  -oDir::Etc::SourceList="$apt/sources.list"
  -oDir::Etc::SourceParts=/nonexistent
  -oAcquire::Languages=none
  -oAPT::Sandbox::User=root)

{
  apt-get "${options[@]}" update
  image=$(apt-cache "${options[@]}" depends linux-image-cloud-amd64 | grep -oE 'linux-image-[0-9][^ ]+' | head -n 1)
  [ -n "$image" ] || {
    echo "kernel.sh: $mirror has no linux-image-cloud-amd64 in $suite"
    exit 1
  }
  # Newer releases split the image: what it depends on has the kernel itself and its modules.
  parts=$(apt-cache "${options[@]}" depends "$image" | grep -oE 'linux-(binary|modules)-[0-9][^ ]+' || true)
  cd "$apt"
  # shellcheck disable=SC2086  # a list of words
  apt-get "${options[@]}" download "$image" $parts
  for package in ./*.deb; do
    dpkg-deb -x "$package" "$kernel"
  done
  rm -f ./*.deb
  # Where older releases have it.
  [ ! -d "$kernel/lib/modules" ] || {
    mkdir -p "$kernel/usr"
    mv "$kernel/lib" "$kernel/usr/lib"
  }
  version=$(ls "$kernel/usr/lib/modules")
  ln -sfn usr/lib "$kernel/lib"
  depmod -b "$kernel" "$version"
} >&2

touch "$kernel/complete"
echo "$kernel"
