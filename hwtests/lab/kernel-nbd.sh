#!/bin/bash
# kernel-nbd.sh BIN_DIR: a volume on RAID 6 as /dev/nbdN of a real kernel, used by file systems and fio
# through kill -9 and restarts of cairnd. For a guest of vm.sh with the module nbd and six empty disks
# (DISKS=6, MODS="nbd virtio_blk"); SIZE is of the file that fio writes. It ends with 0 only if nothing was lost and no error was seen.
set -euo pipefail
bin=${1:?directory with cairnd and cairn}
dir=$(mktemp -d)
export CAIRN_SOCKET=$dir/state/cairnd.sock
log=$dir/cairnd.log

say() { echo "== $*"; }
die() {
  echo "FAILED: $*"
  tail -40 "$log"
  dmesg | tail -30
  exit 1
}
cairn() { "$bin/cairn" "$@"; }

start() {
  "$bin/cairnd" --config "$dir/cairnd.toml" --state-dir "$dir/state" >>"$log" 2>&1 &
  daemon=$!
  for _ in $(seq 600); do
    cairn volume list >/dev/null 2>&1 && [ "$(state)" != waiting ] && return
    kill -0 "$daemon" 2>/dev/null || die "cairnd ended"
    sleep 0.1
  done
  die "cairnd isn't ready"
}
# The state of the export, once there is one.
state() { cairn -o csv volume show pg 2>/dev/null | grep -oE 'listening|waiting|failed' | head -1 || true; }

mkdir -p "$dir/state"
echo 'degraded_wait_seconds = 1' >"$dir/cairnd.toml"
start
cairn array create pool --level raid6 --disks /dev/vd[a-f] >/dev/null
cairn volume create pg --array pool --size 256MiB >/dev/null
said=$(cairn volume export pg --kernel-nbd 2>&1) || die "$said"
echo "$said"
device=$(echo "$said" | grep -oE '/dev/nbd[0-9]+' | head -1)
[ -b "$device" ] || die "no device in: $said"
name=${device#/dev/}
[ "$(blockdev --getsize64 "$device")" = $((256 << 20)) ] || die "size $(blockdev --getsize64 "$device")"
[ "$(blockdev --getss "$device")" = 4096 ] || die "logical block $(blockdev --getss "$device")"

say "ext4, and fio through three kills"
mkfs.ext4 -q "$device"
mkdir "$dir/mnt"
mount "$device" "$dir/mnt"
fio --name=verify --directory="$dir/mnt" --size="${SIZE:-96m}" --bsrange=4k-64k --rw=randwrite --direct=1 \
  --ioengine=libaio --iodepth=32 --verify=crc32c --verify_fatal=1 --do_verify=1 --loops=2 \
  --output="$dir/fio.log" &
fio=$!
for round in 1 2 3; do
  sleep 4
  kill -0 $fio 2>/dev/null || say "fio was done before kill $round"
  kill -9 "$daemon"
  wait "$daemon" 2>/dev/null || true
  sleep 1
  start
  [ "$(ls -d /sys/block/nbd*/pid | wc -l)" = 1 ] || die "more than one device after kill $round"
  [ "$(cat "/sys/block/$name/backend")" != "" ] || die "another device after kill $round"
  say "kill $round: the device is taken up again"
done
wait $fio || { cat "$dir/fio.log"; die "fio saw an error"; }
grep -E 'err= *0' "$dir/fio.log" >/dev/null || { cat "$dir/fio.log"; die "fio saw an error"; }
dmesg | grep -E 'I/O error.*nbd|EXT4-fs error' && die "the kernel saw an error"

say "mounted: not unexported, and the holder is named"
refusal=$(cairn volume unexport pg 2>&1) && die "unexported although mounted"
echo "$refusal" | grep -q "$name is mounted at" || die "$refusal"
sync
umount "$dir/mnt"
e2fsck -fn "$device" >/dev/null 2>&1 || die "e2fsck"

say "a clean restart, xfs, discard, growth"
kill "$daemon"
wait "$daemon" || die "cairnd didn't stop cleanly"
start
mkfs.xfs -q -f "$device" || die "mkfs.xfs"
blkdiscard "$device"
[ "$(dd if="$device" bs=1M count=4 status=none | tr -d '\0' | wc -c)" = 0 ] || die "discarded blocks aren't zeros"
blkdiscard -z -o 0 -l 1048576 "$device"
cairn volume resize pg --size 320MiB --yes >/dev/null
for _ in $(seq 50); do
  [ "$(blockdev --getsize64 "$device")" = $((320 << 20)) ] && break
  sleep 0.2
done
[ "$(blockdev --getsize64 "$device")" = $((320 << 20)) ] || die "the new size isn't seen"

say "unexport ends the device"
cairn volume unexport pg --yes || die "unexport"
[ ! -e "/sys/block/$name/pid" ] || die "the device is still set up"
kill "$daemon"
wait "$daemon" || die "cairnd didn't stop cleanly"
say "all of it passed"
