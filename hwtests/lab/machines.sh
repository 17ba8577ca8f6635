#!/bin/bash
# machines.sh: all that block devices promise on a kernel that has what this host's may not have; two virtual
# machines at a time, since much of what each promises is waited for.
#
#   machines.sh smoke      ublk.sh and kernel-nbd.sh, what they call their smoke
#   machines.sh whole      all of both; md.sh, outage.sh; on a newer kernel a size that changes under a ublk
#                          device, which the baseline doesn't have; on an old one that /dev/nbdN is refused
#
# Each line begins with the script that it is from. Settings are those of vm.sh; OUT is given to each under its
# own name (outage.sh has KEEP). Memory: 1.5 GiB for each machine (outage.sh 2), and the disks of both in TMPDIR.
set -u -o pipefail

which=${1:-}
case $which in
  smoke | whole) ;;
  *)
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
here=$(cd "$(dirname "$0")" && pwd)

# Not by both at once.
bash "$here/kernel.sh" >/dev/null || exit 1

# lab NAME SCRIPT [ARGUMENT…]
lab() {
  local name=$1 script=$2
  shift 2
  local code=0 begun=$SECONDS
  OUT=${OUT:+$OUT/$name} bash "$here/$script.sh" "$@" 2>&1 | sed -u "s/^/$name: /" || code=1
  echo "$name: $((SECONDS - begun)) s, exit $code"
  return $code
}

first() {
  local worst=0
  lab ublk ublk "$which" || worst=1
  if [ "$which" = whole ]; then
    lab md md || worst=1
    (export SUITE=trixie-backports && lab newer-ublk ublk device_is_what_it_says resize_is_seen) || worst=1
    (export SUITE=bullseye && lab older-nbd kernel-nbd kernel_without_identifiers_is_refused) || worst=1
  fi
  return $worst
}

second() {
  local worst=0
  lab kernel-nbd kernel-nbd "$which" || worst=1
  [ "$which" = smoke ] || lab outage outage || worst=1
  return $worst
}

# Each a process group of its own, so that all of both ends when this does.
set -m
one=
two=
trap 'trap - INT TERM HUP; kill -- ${one:+-$one} ${two:+-$two} 2>/dev/null; wait; exit 130' INT TERM HUP
first </dev/null &
one=$!
second </dev/null &
two=$!
code=0
wait $one || code=1
wait $two || code=1
echo "machines.sh $which: $SECONDS s, exit $code"
exit $code
