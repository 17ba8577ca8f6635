# device.sh: what a volume promises as a block device whichever driver makes it, for ublk.sh and
# kernel-nbd.sh; sourced after inside.sh, not run.
#
# Wants: driver, the kernel's module, and option, that of `cairn volume export` which makes such a device.
# Gives: the disks, the array, the device, the load, and the promises that are the same for both.
# shellcheck shell=bash
# shellcheck disable=SC2154  # state and daemon are inside.sh's, driver and option the caller's

# Of processes that have limits.
groups=/sys/fs/cgroup
members="/dev/vda /dev/vdb /dev/vdc /dev/vdd"
spare=/dev/vde
device=
name=

# begin_array [SIZE]: a daemon, the array and the volume.
begin_array() {
  up
  # shellcheck disable=SC2086
  cairn array create pool --level raid6 --disks $members --spares $spare 2>/dev/null || die create
  cairn volume create pg --array pool --size "${1:-128MiB}" 2>/dev/null || die volume
}

# begin [SIZE [EXPORT OPTIONS]]: the array, the volume and its device.
begin() {
  size=${1:-128MiB}
  shift $(($# > 0))
  # What the kernel says of the end of an earlier device isn't this one's.
  dmesg -C
  modprobe "$driver" || die "no $driver"
  begin_array "$size"
  # The device alone is what scripts get.
  device=$(cairn volume export pg "$option" "$@" 2>/dev/null) || die export
  [ -b "$device" ] || die "no device: $device"
  name=${device#/dev/}
}

# Devices that are set up, of either driver; there must never be a second.
devices() { ls -d /dev/ublkb* /sys/block/nbd*/pid 2>/dev/null | wc -l; }

# What is left goes, so that the next promise finds blank disks.
tidy() {
  # Nobody unmounts what is on a device without a server.
  kill -0 "$daemon" 2>/dev/null || [ "$(devices)" = 0 ] || {
    starts
    (answers)
  }
  umount /mnt 2>/dev/null
  umount /run/ballast 2>/dev/null
  [ ! -d /run/pg ] || bash "$here/pg-on-nbd.sh" down /run/pg
  unexported
  kill -9 "$daemon" 2>/dev/null
  wait "$daemon" 2>/dev/null
  # A device without a server holds its users for ever: a fresh server takes it away.
  if [ "$(devices)" != 0 ]; then
    # What else is to be tidied is, also where it doesn't come up.
    starts
    (answers)
    quiet array wait pool --timeout 60s
    quiet volume unexport pg --force --yes
    kill -9 "$daemon"
    wait "$daemon" 2>/dev/null
  fi
  rm -rf $state
  rmdir $groups/writer $groups/daemon 2>/dev/null
  for disk in $members $spare; do
    blkdiscard -f $disk 2>/dev/null || dd if=/dev/zero of=$disk bs=1M status=none
  done
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
        --bsrange="${1:-4k-64k}" --size=32M --io_size="${3:-8M}" --randrepeat=0 --verify=pattern \
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

# in_time SECONDS COMMAND…: what hangs at a device can't be ended; so it is left behind, and told.
in_time() {
  seconds=$1
  shift
  "$@" &
  begun=$!
  for _ in $(seq $((seconds * 10))); do
    kill -0 $begun 2>/dev/null || {
      wait $begun
      return
    }
    kill -0 "$daemon" 2>/dev/null || die "the daemon is gone"
    sleep 0.1
  done
  return 1
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

# Ends the load, which saw no error, nor did the kernel see one that it didn't.
content() {
  unload
  # Of any kind: the device's own, its buffers', a file system's on it.
  ! dmesg | grep "$name" | grep -iE "error|corrupt|shut down" || die "the kernel saw an error"
}

# crashes SECONDS ROUNDS: kill -9 under what runs, and starts again; one of them after a while.
crashes() {
  for round in $(seq "$2"); do
    sleep "$1"
    under_load killed
    # Requests wait meanwhile.
    [ "$round" != 2 ] || sleep 3
    up
    is "devices after kill $round" "$(devices)" 1
    is "device after kill $round" "$(cairn volume export pg "$option" 2>/dev/null)" "$device"
  done
}

# crashes_under SIZE MAKE CHECK…: the same under a file system on the device.
crashes_under() {
  begin "$1"
  $2 -q "$device" && mount "$device" /mnt || die "$2"
  shift 2
  cp -r /etc/ssl /mnt/ || die files
  load 4k-64k --directory=/mnt
  crashes 2 3
  content
  umount /mnt || die umount
  "$@" "$device" >/dev/null 2>&1 || die "$*"
  mount "$device" /mnt && diff -r /etc/ssl /mnt/ssl || die "what was written is another"
}

kill_9_under_ext4() { crashes_under 160MiB mkfs.ext4 e2fsck -fn; }
kill_9_under_xfs() {
  crashes_under 320MiB mkfs.xfs xfs_repair -n
  # A sync that finds no daemon waits for the next.
  cp -r /etc/ssl /mnt/again || die files
  rm -f /run/synced
  killed
  (sync -f /mnt && echo synced >/run/synced) &
  sync=$!
  sleep 2
  [ ! -e /run/synced ] || die "a sync without a daemon"
  up
  wait $sync || die sync
  umount /mnt || die umount
  xfs_repair -n "$device" >/dev/null 2>&1 || die xfs_repair
  mount "$device" /mnt && diff -r /etc/ssl /mnt/again || die "what was synced is another"
}

restart_is_a_pause() {
  begin
  load
  for _ in 1 2; do
    sleep 2
    under_load stopped
    sleep 1
    is "devices without a daemon" "$(devices)" 1
    up
  done
  content
  is devices "$(devices)" 1
  # A clean stop is one: nothing is replayed.
  stopped
  up
  dd if="$device" of=/dev/null bs=1M count=4 iflag=direct status=none || die "no reads after it"
}

member_fails_and_is_rebuilt() {
  begin
  load
  sleep 2
  under_load quiet disk fail /dev/vdb --yes || die fail
  quiet array wait pool --for clean --timeout 120s || die "not rebuilt"
  content
  cairn array show pool | grep -q "$spare" || die "the spare isn't in it"
}

zeroes_and_discards() {
  begin 128MiB
  yes cairn | head -c 8M >/run/data
  dd if=/run/data of="$device" bs=1M oflag=direct status=none || die write
  # Of some rows the middle, and whole ones beside.
  blkdiscard -z -o 4096 -l 1M "$device" || die zeroout
  dd if=/dev/zero of=/run/data bs=4096 seek=1 count=256 conv=notrunc status=none
  cmp -n $((8 << 20)) /run/data "$device" || die "what was zeroed, or what was beside it"
  blkdiscard -o $((2 << 20)) -l $((3 << 20)) "$device" || die discard
  dd if=/dev/zero of=/run/data bs=1M seek=2 count=3 conv=notrunc status=none
  cmp -n $((8 << 20)) /run/data "$device" || die "what was discarded, or what was beside it"
  blkdiscard "$device" || die "discard of all"
  is allocated "$(allocated)" 0
  killed
  up
  dd if="$device" bs=1M count=8 iflag=direct status=none | cmp -n $((8 << 20)) - /dev/zero || die "not zeros"
}

blocks_of_512() {
  begin 128MiB --logical-block 512
  is "logical block" "$(queue logical_block_size)" 512
  yes cairn | head -c 1M >/run/data
  dd if=/run/data of="$device" bs=1M oflag=direct status=none || die write
  # The end of one of our blocks, and the beginning of the next.
  head -c 1536 /dev/urandom >/run/piece
  for file in "$device" /run/data; do
    direct=,direct
    [ "$file" = "$device" ] || direct=
    dd if=/run/piece of="$file" bs=1536 count=1 seek=3072 oflag=seek_bytes$direct conv=notrunc status=none ||
      die "write of three sectors"
  done
  said=$(cairn volume export pg "$option" --logical-block 4096 2>&1) && die "another kind"
  echo "$said" | grep -q unexport || die "said: $said"
  said=$(cairn volume export pg "$option" --logical-block 1024 2>&1) && die "blocks of 1024 bytes"
  echo "$said" | grep -q "512 or 4096" || die "said: $said"
  is "device, whatever its blocks" "$(cairn volume export pg --block auto 2>/dev/null)" "$device"
  killed
  up
  is "logical block after a crash" "$(queue logical_block_size)" 512
  quiet volume export pg "$option" --logical-block 4096 && die "another kind after a crash"
  dd if="$device" bs=1M count=1 iflag=direct status=none | cmp - /run/data || die "what was written is another"
}

# waits COMMAND…: how often meanwhile the daemon's threads have waited: the one that did most, and all others.
waits() {
  # One that ends meanwhile has no file any more.
  voluntary() {
    cat /proc/"$daemon"/task/*/status 2>/dev/null |
      awk '/^Pid:/ {pid = $2} /^voluntary_ctxt/ {print pid, $2}' | sort
  }
  voluntary >/run/before
  "$@" >/dev/null 2>&1 || return 1
  voluntary >/run/after
  # Threads that weren't there before count from 0.
  join -a 2 -e 0 -o 1.2,2.2 /run/before /run/after |
    awk '{d = $2 - $1; all += d; if (d > most) most = d} END {print most, all - most}'
}

# One request at a time: the thread that takes it also answers it, and no other is woken for it.
read_is_one_thread_s() {
  begin
  yes cairn | head -c 8M | dd of="$device" bs=1M iflag=fullblock oflag=direct status=none || die write
  begun=$(date +%s)
  read -r one others < <(waits fio --name=reads --filename="$device" --direct=1 --ioengine=psync --rw=randread --bs=4k \
    --size=8M --io_size=4M --randrepeat=0) || die fio
  read -r _ idle < <(waits sleep $(($(date +%s) - begun)))
  echo "  1024 reads: the thread that serves them waited $one times, all others $others times, and $idle without reads"
  [ "$one" -ge 512 ] || die "no thread is seen to serve them"
  [ $((others - idle)) -lt 512 ] || die "other threads are woken for reads"
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

# The state directory of before the device, from a backup: what it knows of isn't served beside the device.
older_state_makes_no_second_writer() {
  begin
  quiet volume unexport pg || die unexport
  quiet volume export pg --nbd unix:/run/pg.sock || die "a socket"
  stopped
  cp -a $state /run/older
  up
  quiet volume unexport pg || die unexport
  device=$(cairn volume export pg "$option" 2>/dev/null) || die "the device again"
  yes cairn | head -c 1M >/run/data
  dd if=/run/data of="$device" bs=1M oflag=direct status=none || die write
  killed
  rm -rf $state && mv /run/older $state || die "the older state"
  up
  cairn volume show pg | grep -q "left by an earlier daemon" || die "not said: $(cairn volume show pg)"
  [ ! -S /run/pg.sock ] || die "a second writer"
  quiet volume unexport pg || die "unexport of the older one"
  is device "$(cairn volume export pg "$option" 2>/dev/null)" "$device"
  dd if="$device" bs=1M count=1 iflag=direct status=none | cmp - /run/data || die "other data"
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
  fallocate -l $((available / 1024 - 80))M /run/ballast/file || die ballast
  in_time 120 sh -c "yes cairn | head -c 80M >/mnt/large" || die "the write hangs"
  in_time 60 sync -f /mnt || die "the sync hangs"
  umount /run/ballast
  echo 3 >/proc/sys/vm/drop_caches
  yes cairn | head -c 80M | cmp - /mnt/large || die "what was written is another"
  waits_for_nobody
}

# The daemon's memory stays, and no thread of it waits for its own device.
waits_for_nobody() {
  kill -0 "$daemon" || die "the daemon is gone"
  [ "$(awk '/VmLck/ {print $2}' /proc/"$daemon"/status)" -gt 0 ] || die "the daemon may be swapped out"
  # PF_MEMALLOC_NOIO, of PR_SET_IO_FLUSHER.
  for flags in $(sed 's/.*) //' /proc/"$daemon"/task/*/stat | cut -d' ' -f7); do
    [ $((flags & 0x80000)) != 0 ] || die "a thread may wait for its own device"
  done
}

# limit GROUP KIB: what is in the group may have so much memory.
limit() {
  echo $(($2 << 10)) >"$groups/$1/memory.max" || die "no limit for $1"
}

# The same with limits: for the writer one that is far below what it writes, and for the daemon little more than it
# has already, as nothing grows while it writes.
memory_limits() {
  echo +memory >/sys/fs/cgroup/cgroup.subtree_control || die "no memory controller"
  mkdir $groups/writer $groups/daemon || die "no groups"
  # shellcheck disable=SC2016  # for the other shell
  within='echo $$ >"$0/cgroup.procs" && exec "$@"'
  begin 256MiB
  stopped
  up sh -c "$within" $groups/daemon
  mkfs.ext4 -q "$device" && mount "$device" /mnt || die ext4
  yes cairn | dd of=/mnt/first bs=1M count=16 iflag=fullblock conv=fsync status=none || die write
  has=$(($(cat $groups/daemon/memory.current) >> 10))
  limit daemon $((has + (8 << 10)))
  limit writer $((32 << 10))
  echo 60 >/proc/sys/vm/dirty_ratio
  unended() {
    for group in writer daemon; do
      grep -q '^oom_kill 0$' $groups/$group/memory.events || die "the $group was ended for want of memory"
    done
  }
  in_time 120 sh -c "$within" $groups/writer sh -c "yes cairn | head -c 48M >/mnt/large" || {
    unended
    die "the write hangs"
  }
  in_time 60 sh -c "$within" $groups/writer sync -f /mnt || die "the sync hangs"
  unended
  grep -q '^max 0$' $groups/writer/memory.events && die "the writer hasn't met its limit"
  echo "  the daemon had $((has >> 10)) MiB, and $(($(cat $groups/daemon/memory.peak) >> 20)) MiB at most; the writer" \
    "met its limit $(sed -n 's/^max //p' $groups/writer/memory.events) times"
  echo 3 >/proc/sys/vm/drop_caches
  yes cairn | head -c 48M | cmp - /mnt/large || die "what was written is another"
  waits_for_nobody
}

# keep_promises PROMISE…: each with an array of its own, and what the kernel said of the driver
# where one fails.
keep_promises() {
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
      dmesg | grep -iE "${driver%_drv}|cairn|oom" | tail -n 8
    fi
    rm -f /vmout/cairnd.log
  done
  echo "$failed of $# promises failed"
  [ "$failed" = 0 ]
}
