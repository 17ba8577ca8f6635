#!/bin/bash
# outage.sh: ext4 on /dev/ublkbN over power cuts. A kernel's ext4, kept busy with syncs, on a volume whose
# disks record all that is done to them; then the power is cut in that record, after every sync and in
# between, with what the disks' caches may have kept, and members lost with it. Every time ext4 must be
# clean, and hold what was synced.
#
#   outage.sh [ROUNDS]      syncs of each of two writers (60); two cuts a sync
#   KEEP=DIR outage.sh      leaves record and notes in DIR, for `lab outage --only N`
#
# Binaries: CAIRN_BIN_DIR, else target/release. Needs mkfs.ext4, e2fsck, loop devices, root, and what vm.sh does.
# The recording is done in the machine, the cuts here.
set -u

bin=${CAIRN_BIN_DIR:-${CARGO_TARGET_DIR:-target}/release}
disks=5
mib=128

if [ "${1:-}" != --inside ]; then
  self=$(realpath "$0")
  bin=$(realpath "$bin") || exit 1
  for program in cairn cairnd lab; do
    [ -x "$bin/$program" ] || {
      echo "outage.sh: no $bin/$program: cargo build --release -p cairnd -p cairn-tools -p cairn-hwtests --bins" >&2
      exit 1
    }
  done
  run=$(mktemp -d)
  trap 'rm -rf "$run"' EXIT
  out=${KEEP:-$run/out}
  mkdir -p "$out" "$run/cuts"
  OUT=$out MEM=2048 TIMEOUT=${TIMEOUT:-900} MODULES='ublk_drv' \
    bash "$(dirname "$self")/vm.sh" "CAIRN_BIN_DIR='$bin' bash '$self' --inside ${1:-60}" || exit 1
  "$bin/lab" outage --record "$out/record" --notes "$out/notes" --disks $disks --mib $mib --volume pg --lose 2 \
    "$run/cuts"
  exit
fi
rounds=$2

# --- inside ------------------------------------------------------------------------------------------

bin=$CAIRN_BIN_DIR
. "$(dirname "$(realpath "$0")")/inside.sh"

mkdir -p /run/disks
"$bin/lab" record --disks $disks --mib $mib /run/disks >/run/made &
recorder=$!
for _ in $(seq 100); do
  grep -q ready /run/made && break
  kill -0 $recorder || die "no recording disks"
  sleep 0.1
done
up
# shellcheck disable=SC2046
cairn array create pool --level raid6 --disks $(grep /dev /run/made) || die create
quiet volume create pg --array pool --size 96MiB || die volume
device=$(cairn volume export pg --ublk) || die export
# A journal that is gone round many times.
mkfs.ext4 -q -J size=4 "$device" && mount -o discard "$device" /mnt && sync -f /mnt || die ext4
"$bin/lab" workload --record /run/disks/record --notes /vmout/notes --rounds "$rounds" /mnt || die "the workload"
cp /run/disks/record /vmout/record || die "the record"
ls -l /vmout
