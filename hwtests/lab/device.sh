# device.sh: what a volume promises as a block device whichever driver makes it, for ublk.sh and
# kernel-nbd.sh; sourced after inside.sh, not run.
#
# Wants: begin [SIZE [EXPORT OPTIONS]], which makes array, volume and device, and sets device and name; tidy.
# Gives: the disks, the array, the load, and the promises that are the same for both.
# shellcheck shell=bash
# shellcheck disable=SC2154  # state and daemon are inside.sh's, name is begin's

members="/dev/vda /dev/vdb /dev/vdc /dev/vdd"
spare=/dev/vde
device=

# begin_array [SIZE]: a daemon, the array and the volume.
begin_array() {
  up
  # shellcheck disable=SC2086
  cairn array create pool --level raid6 --disks $members --spares $spare 2>/dev/null || die create
  cairn volume create pg --array pool --size "${1:-128MiB}" 2>/dev/null || die volume
}

allocated() { cairn -o json volume show pg | grep -o '"allocated_bytes": *[0-9]*' | grep -o '[0-9]*$'; }

# load [SIZES [WHERE [BYTES]]]: fio at depth 32, on the device or where it is told; in the background, again and again until
# `unload`, however long the machine takes for what is to happen meanwhile. A turn ends when all that it wrote has
# been read and compared. What it writes has the turn's number: with fio's checksums what an earlier turn left,
# where a write was lost, would pass. The pattern is 17 bytes, so that no two blocks of a request are the same.
load() {
  rm -f /run/enough
  (
    turn=0
    while [ ! -e /run/enough ]; do
      turn=$((turn + 1))
      fio --name=verify "${2:---filename=$device}" --direct=1 --ioengine=libaio --iodepth=32 --rw=randrw \
        --bsrange="${1:-4k-64k}" --size=48M --io_size="${3:-16M}" --randrepeat=0 --verify=pattern \
        --verify_pattern="%o0x$(printf %08x $turn)c5a1967ecd" --verify_fatal=1 --do_verify=1 --output=/vmout/fio.log >/dev/null 2>&1 ||
        exit 1
    done
  ) &
  fio=$!
}

# A file system on the device that is mounted where the daemon doesn't see it, as in a container.
mounted_elsewhere() {
  unshare --mount --propagation private sh -c "mount $device /mnt && echo mounted >/run/elsewhere && exec sleep 600" &
  elsewhere=$!
  for _ in $(seq 100); do
    [ -s /run/elsewhere ] && break
    sleep 0.1
  done
  [ -s /run/elsewhere ] || die "no mount elsewhere"
  # Nobody has a file of it open: it is the mount alone that keeps it.
  said=$(cairn volume unexport pg --yes 2>&1) && die "a device that is mounted elsewhere was taken away"
  echo "$said" | grep -q "in use" || die "said: $said"
  kill $elsewhere
  wait $elsewhere 2>/dev/null
  rm -f /run/elsewhere
  for _ in $(seq 50); do
    python3 -c "import os; os.close(os.open('$device', os.O_RDONLY | os.O_EXCL))" 2>/dev/null && return
    sleep 0.1
  done
  die "the mount elsewhere stays"
}

# Waits until the device has requests under way.
under_way() {
  for _ in $(seq 300); do
    read -r reads writes <"/sys/block/$name/inflight"
    [ $((reads + writes)) -gt 0 ] && return
    sleep 0.1
  done
  return 1
}

# under_load COMMAND…: what is to happen while fio's writes are under way: all that its turn has written is read
# and compared after that.
under_load() {
  for _ in $(seq 300); do
    kill -0 $fio 2>/dev/null || die "fio saw an error: $(tail -n 5 /vmout/fio.log)"
    read -r reads writes <"/sys/block/$name/inflight"
    [ "$writes" -gt 0 ] && {
      "$@"
      return
    }
    sleep 0.05
  done
  die "no load"
}

# Ends the load, which saw no error.
unload() {
  touch /run/enough
  wait $fio || die "fio saw an error: $(tail -n 5 /vmout/fio.log)"
}

# Takes the device away at a promise's end, if there is a daemon that does. It may be stopped.
unexported() {
  kill -CONT "$daemon" 2>/dev/null && timeout 20 "$bin/cairn" volume unexport pg --force --yes >/dev/null 2>&1
}

# The load of a promise that broke off ends before the next begins; it may wait for its device to go.
calm() {
  touch /run/enough
  pkill -9 -x fio
  for _ in $(seq 50); do
    pgrep -x fio >/dev/null || break
    sleep 0.1
  done
}

queue() { cat "/sys/block/$name/queue/$1"; }

xfs_keeps_its_files() {
  begin 400MiB
  mkfs.xfs -q "$device" && mount "$device" /mnt || die xfs
  cp -r /etc/ssl /mnt/ || die files
  killed
  (sync -f /mnt && echo synced >/run/synced) &
  sync=$!
  sleep 2
  [ ! -e /run/synced ] || die "a sync without a daemon"
  up
  wait $sync
  umount /mnt || die umount
  xfs_repair -n "$device" >/dev/null 2>&1 || die xfs_repair
  mount "$device" /mnt && diff -r /etc/ssl /mnt/ssl || die "what was written is another"
}

# What df says that the array uses, in KiB.
df_used() {
  cairn -o json df | tr -d ' \n' | tr '{' '\n' | grep '"kind":"array"' | grep -o '"used_kib":[0-9]*' | grep -o '[0-9]*$'
}

trim_gives_extents_back() {
  begin 128MiB
  mkfs.ext4 -q "$device" && mount "$device" /mnt || die ext4
  head -c 90M /dev/zero >/mnt/large && sync -f /mnt || die write
  full=$(allocated)
  full_df=$(df_used)
  rm /mnt/large && sync -f /mnt && fstrim -v /mnt || die fstrim
  left=$(allocated)
  [ "$left" -lt "$full" ] || die "$full bytes allocated before, $left after"
  [ "$(df_used)" -lt "$full_df" ] || die "df shows $full_df KiB before, $(df_used) after"
}

array_stops_and_goes_on() {
  begin
  yes cairn | head -c 1M >/run/data
  dd if=/run/data of="$device" bs=1M oflag=direct status=none || die write
  quiet array stop pool --yes || die stop
  dd if="$device" of=/run/read bs=1M count=1 iflag=direct status=none &
  reader=$!
  sleep 1
  quiet array assemble pool || die assemble
  wait $reader || die "a read over the stop failed"
  cmp /run/read /run/data || die "other data"
}

# Dirty pages in plenty, of a file system on the device, on a host that is short of memory. Nothing may wait for
# itself.
memory_pressure() {
  begin 256MiB
  mkfs.ext4 -q "$device" && mount "$device" /mnt || die ext4
  echo 1 >/proc/sys/vm/overcommit_memory
  echo 60 >/proc/sys/vm/dirty_ratio
  # What is left of the machine's memory: about as much as is written.
  mkdir -p /run/ballast && mount -t tmpfs -o size=100% ballast /run/ballast
  available=$(awk '/MemAvailable/ {print $2}' /proc/meminfo)
  fallocate -l $((available / 1024 - 160))M /run/ballast/file || die ballast
  yes cairn | timeout 120 dd of=/mnt/large bs=1M count=160 iflag=fullblock status=none || die "the write hangs"
  timeout 60 sync -f /mnt || die "the sync hangs"
  umount /run/ballast
  echo 3 >/proc/sys/vm/drop_caches
  yes cairn | head -c 160M | cmp - /mnt/large || die "what was written is another"
  kill -0 "$daemon" || die "the daemon is gone"
  # PF_MEMALLOC_NOIO, of PR_SET_IO_FLUSHER: no thread of the daemon waits for its own device.
  [ "$(awk '/VmLck/ {print $2}' /proc/"$daemon"/status)" -gt 0 ] || die "the daemon may be swapped out"
  for flags in $(sed 's/.*) //' /proc/"$daemon"/task/*/stat | cut -d' ' -f7); do
    [ $((flags & 0x80000)) != 0 ] || die "a thread may wait for its own device"
  done
}

# keep_promises DRIVER PROMISE…: each with an array of its own, and what the kernel said of the driver
# where one fails.
keep_promises() {
  driver=$1
  shift
  failed=0
  for promise in "$@"; do
    begun=$(date +%s)
    if (
      trap 'calm; tidy; calm; umount -l /mnt 2>/dev/null' EXIT
      "$promise"
    ); then
      echo "ok $promise ($(($(date +%s) - begun)) s)"
    else
      failed=$((failed + 1))
      echo "FAILED $promise ($(($(date +%s) - begun)) s)"
      tail -n 15 /vmout/cairnd.log
      dmesg | grep -i "$driver" | tail -n 8
    fi
    rm -f /vmout/cairnd.log
  done
  echo "$failed of $# promises failed"
  [ "$failed" = 0 ]
}
