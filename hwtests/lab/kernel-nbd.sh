#!/bin/bash
# kernel-nbd.sh: what a volume promises as /dev/nbdN, in a virtual machine with a kernel that has nbd.
#
#   kernel-nbd.sh smoke      the device, kill -9 under fio, refusals, the choice: a minute
#   kernel-nbd.sh whole      also a stall, a lost socket, kill -9 under ext4 and xfs, restarts, a failed member,
#                            zeroing, resizing, memory pressure
#   kernel-nbd.sh PROMISE…   some by name; --list names them
#
# Binaries: CAIRN_BIN_DIR, else target/release. Needs fio, mkfs.ext4, mkfs.xfs, nbd-client, qemu-nbd, and what vm.sh does.
# Inside the machine (that is how it calls itself) every promise gets an array of its own: RAID 6 on
# four virtio disks, one spare, a volume, its device.
set -u

# Those of the smoke first.
smoke="device_is_what_it_says crash_is_a_pause in_use_stays another_s_device_stays
 the_choice_is_what_the_kernel_has"
whole="$smoke no_permission blocks_of_512 read_is_one_thread_s slow_is_not_sent_again lost_socket_is_replaced
 kill_9_under_ext4 kill_9_under_xfs restart_is_a_pause trim_gives_extents_back
 device_goes_without_its_array device_is_made_again_as_it_was member_fails_and_is_rebuilt zeroes_and_discards resize_is_seen left_device_is_taken_up
 older_state_makes_no_second_writer array_stops_and_goes_on memory_pressure memory_limits"
# Linux before 5.14, as SUITE=bullseye has it.
old=kernel_without_identifiers_is_refused

bin=${CAIRN_BIN_DIR:-${CARGO_TARGET_DIR:-target}/release}

if [ "${1:-}" != --inside ]; then
  case ${1:-smoke} in
    --list)
      # shellcheck disable=SC2086  # a list of words
      printf '%s\n' $whole $old
      exit 0
      ;;
    smoke) promises=$smoke ;;
    whole) promises=$whole ;;
    *) promises=$* ;;
  esac
  self=$(realpath "$0")
  bin=$(realpath "$bin") || exit 1
  for program in cairn cairnd; do
    [ -x "$bin/$program" ] || {
      echo "kernel-nbd.sh: no $bin/$program: cargo build --release -p cairnd -p cairn-tools --bins" >&2
      exit 1
    }
  done
  # shellcheck disable=SC2086
  DISKS=5 DISK_MIB=200 TIMEOUT=${TIMEOUT:-1500} MODULES='virtio_blk' \
    exec bash "$(dirname "$self")/vm.sh" "CAIRN_BIN_DIR='$bin' bash '$self' --inside $(echo $promises)"
fi
shift

# --- inside ------------------------------------------------------------------------------------------

bin=$CAIRN_BIN_DIR
here=$(dirname "$(realpath "$0")")
. "$here/inside.sh"
. "$here/device.sh"
driver=nbd
option=--kernel-nbd

# In place of inside.sh's: waits as well until the array serves its device.
answers() {
  decided
  for _ in $(seq 600); do
    kill -0 "$daemon" || die "cairnd ended"
    cairn volume show pg >/run/shown 2>/dev/null || quiet array show pool || return 0
    [ -s /run/shown ] && ! grep -q waiting /run/shown && return 0
    sleep 0.1
  done
  die "cairnd doesn't serve its array's device"
}

# --- the promises ------------------------------------------------------------------------------------

device_is_what_it_says() {
  begin 128MiB
  is size "$(blockdev --getsize64 "$device")" $((128 << 20))
  is "logical block" "$(queue logical_block_size)" 4096
  is cache "$(queue write_cache)" "write back"
  is fua "$(queue fua)" 1
  is "look at requests, ms" "$(queue io_timeout)" 5000
  cairn volume show pg | grep -q "$device" || die "show doesn't name the device"
  cairn volume export pg --kernel-nbd 2>&1 | grep -q already || die "not idempotent"
  said=$(cairn volume export pg --nbd unix:/run/pg.sock 2>&1) && die "a second writer"
  echo "$said" | grep -q "at kernel" || die "$said"
  mkfs.ext4 -q "$device" && mount "$device" /mnt || die ext4
  cp -r /etc/ssl /mnt/ && sync -f /mnt && umount /mnt || die files
  e2fsck -fn "$device" >/dev/null || die fsck
  quiet volume unexport pg || die unexport
  is "devices after unexport" "$(devices)" 0
  device=$(cairn volume export pg --kernel-nbd --read-only 2>/dev/null) || die "export again"
  name=${device#/dev/}
  is read-only "$(cat "/sys/block/$name/ro")" 1
  mount -o ro,noload "$device" /mnt && diff -r /etc/ssl /mnt/ssl || die "what was written is another"
}

# Takes a driver away; what used it may still be on its way out.
unloaded() {
  for _ in $(seq 100); do
    grep -q "^$1 " /proc/modules || return 0
    said=$(rmmod "$1" 2>&1) && return 0
    sleep 0.1
  done
  die "$1 stays: $said"
}

crash_is_a_pause() {
  begin
  load
  crashes 2 1
  content
}

# looks: how often the kernel has looked at one and the same request since the mark.
looks() {
  dmesg | sed -n '/cairn-lab: stopped/,$p' | grep "Possible stuck request" | grep -o "Runtime [0-9]* seconds" | sort -u | wc -l
}

# What is slow stays under way, once: its socket is kept, and no second request is made of it.
slow_is_not_sent_again() {
  begin
  # Small ones, all of which a socket holds: the kernel's look waits for requests that are being sent.
  load 4k-4k "--filename=$device" 4M
  before=$(dmesg | grep -cE "reconnected socket|Receive control failed")
  under_way || die "no requests come"
  echo "cairn-lab: stopped" >/dev/kmsg
  kill -STOP "$daemon"
  under_way || die "no requests wait"
  # Each look tells of every request, and how long it has been under way by then.
  for _ in $(seq 60); do
    [ "$(looks)" -ge 2 ] && break
    sleep 1
  done
  looked=$(looks)
  kill -CONT "$daemon"
  content
  is "sockets lost" "$(dmesg | grep -cE "reconnected socket|Receive control failed")" "$before"
  [ "$looked" -ge 2 ] || die "the kernel looked $looked times"
  ! dmesg | grep -E "timed out, retrying|Double reply|Unexpected reply" || die "a request was sent again"
}

# The daemon lives, and has lost the kernel's socket: it gets another, and what was under way is sent again.
lost_socket_is_replaced() {
  modprobe unix_diag
  begin
  load
  for round in 1 2 3; do
    sleep 1
    under_load python3 "$here/sever.py" "$daemon" || die "the socket can't be shut down"
    for _ in $(seq 300); do
      [ "$(dmesg | grep -c "reconnected socket")" -ge "$round" ] && break
      sleep 0.1
    done
    is "sockets after loss $round" "$(dmesg | grep -c "reconnected socket")" "$round"
    is "device after loss $round" "$(cairn volume export pg --kernel-nbd 2>/dev/null)" "$device"
  done
  content
  is devices "$(devices)" 1
  is "sockets at the end" "$(dmesg | grep -c "reconnected socket")" 3
  is "news from the kernel" "$(grep -c "says that the socket of $device is dead" /vmout/cairnd.log)" 3
  ! dmesg | grep -E "Double reply|Unexpected reply" || die "a reply to nobody"
}

no_permission() {
  begin_array
  stopped
  modprobe nbd && modprobe ublk_drv || die "no drivers"
  up setpriv --bounding-set=-sys_admin
  for how in --kernel-nbd "--block auto" "--kernel-nbd --dry-run"; do
    # shellcheck disable=SC2086
    said=$(cairn volume export pg $how 2>&1) && die "without CAP_SYS_ADMIN: $said"
    for words in "may not set up /dev/nbdN" CAP_SYS_ADMIN cairnd-kernel-nbd.conf "--nbd unix:"; do
      echo "$said" | grep -q -- "$words" || die "not said: $words: $said"
    done
  done
  cairn volume export pg --block auto 2>&1 | grep -q "may not use ublk" || die "not said that ublk may not be used"
  cairn volume show pg | grep -q /dev/ && die "an export that failed is remembered"
  is devices "$(devices)" 0
  # What needs none works.
  quiet volume export pg --nbd unix:/run/pg.sock || die "a socket"
  stopped
  unloaded ublk_drv
}

# Ended by somebody else, with and without a daemon: what is set up again is what there was.
device_is_made_again_as_it_was() {
  begin 128MiB --logical-block 512
  nbd-client -d "$device" >/dev/null 2>&1 || die "nbd-client -d"
  for _ in $(seq 100); do
    cairn volume show pg | grep -q "removed by somebody else" && break
    sleep 0.1
  done
  cairn volume show pg | grep -q "removed by somebody else" || die "not said"
  device=$(cairn volume export pg --kernel-nbd 2>/dev/null) || die "export again"
  name=${device#/dev/}
  is devices "$(devices)" 1
  is "logical block" "$(queue logical_block_size)" 512
  stopped
  nbd-client -d "$device" >/dev/null 2>&1 || die "nbd-client -d without a daemon"
  for _ in $(seq 50); do
    [ "$(devices)" = 0 ] && break
    sleep 0.1
  done
  is devices "$(devices)" 0
  up
  device=$(cairn volume export pg --block auto 2>/dev/null) || die "not set up again"
  name=${device#/dev/}
  is "logical block after a start" "$(queue logical_block_size)" 512
}

kernel_without_identifiers_is_refused() {
  [ "$(printf '%s\n' 5.14 "$(uname -r)" | sort -V | tail -n 1)" = 5.14 ] || die "Linux $(uname -r) has them"
  begin_array
  modprobe nbd || die "no nbd"
  for how in --kernel-nbd "--block auto"; do
    # shellcheck disable=SC2086
    said=$(cairn volume export pg $how 2>&1) && die "a device that could never be found again"
    echo "$said" | grep -q "Linux 5.14" || die "said: $said"
    is "devices that are left" "$(devices)" 0
    cairn volume show pg | grep -q /dev/ && die "an export that failed is remembered"
  done
  quiet volume export pg --nbd unix:/run/pg.sock || die "a socket"
}

in_use_stays() {
  begin
  mkfs.ext4 -q "$device" && mount "$device" /mnt || die ext4
  # Consent to clients being cut off is none to that.
  said=$(cairn volume unexport pg --yes 2>&1) && die "a mounted device was taken away"
  echo "$said" | grep -q "$name is mounted at" || die "the holder isn't named: $said"
  echo "$said" | grep -q -- --force || die "no way on: $said"
  umount /mnt
  mounted_elsewhere
  # Not for itself alone, as a database or a copy has it.
  sleep 600 <"$device" &
  sleeper=$!
  said=$(cairn volume unexport pg --yes 2>&1) && die "an open device was taken away"
  echo "$said" | grep -q "process $sleeper (sleep)" || die "the process isn't named: $said"
  quiet volume unexport pg --force || die "unexport by force"
  kill $sleeper
  wait $sleeper 2>/dev/null
  for _ in $(seq 50); do
    [ "$(devices)" = 0 ] && break
    sleep 0.1
  done
  is "devices" "$(devices)" 0
}

# The operator ends the device, and its number becomes another server's: that one is none of ours.
another_s_device_stays() {
  begin
  truncate -s 32M /run/other.raw
  # For qemu-nbd's own socket.
  mkdir -p /run/lock
  kill -STOP "$daemon"
  nbd-client -d "$device" >/dev/null 2>&1 || die "nbd-client -d"
  qemu-nbd --connect="$device" --format=raw /run/other.raw || die "qemu-nbd"
  kill -CONT "$daemon"
  # Past the daemon's looks.
  sleep 4
  is "size of the other's device" "$(blockdev --getsize64 "$device")" $((32 << 20))
  cairn volume show pg | grep -q "removed by somebody else" || die "not said: $(cairn volume show pg)"
  again=$(cairn volume export pg --kernel-nbd 2>/dev/null) || die "export again"
  [ "$again" != "$device" ] || die "$again is the other's"
  quiet volume unexport pg || die unexport
  is "size of the other's device at the end" "$(blockdev --getsize64 "$device")" $((32 << 20))
  dd if="$device" of=/dev/null bs=1M count=1 iflag=direct status=none || die "the other's device is gone"
  qemu-nbd --disconnect "$device" >/dev/null
}

# A device without a server holds up whoever touches it: it goes with its export, served or not.
device_goes_without_its_array() {
  begin
  quiet array stop pool --yes || die stop
  is "devices of the stopped array" "$(devices)" 1
  quiet volume unexport pg || die unexport
  is "devices after unexport" "$(devices)" 0
}

the_choice_is_what_the_kernel_has() {
  begin_array
  unloaded ublk_drv
  unloaded nbd
  # The kernel loads nbd by itself for who asks: not here.
  loader=$(cat /proc/sys/kernel/modprobe)
  echo /bin/false >/proc/sys/kernel/modprobe
  said=$(cairn volume export pg --block auto 2>&1) && die "without a driver: $said"
  for words in "modprobe ublk_drv" "modprobe nbd" "--nbd unix:"; do
    echo "$said" | grep -q -- "$words" || die "not said: $words: $said"
  done
  cairn volume show pg | grep -q "/dev/" && die "an export that failed is remembered"
  echo "$loader" >/proc/sys/kernel/modprobe
  device=$(cairn volume export pg --block auto 2>/run/said) || die "with nbd alone"
  grep -q "modprobe ublk_drv" /run/said || die "not said what is missing: $(cat /run/said)"
  case $device in /dev/nbd*) ;; *) die "$device with nbd alone" ;; esac
  # What it is it stays, although there is something better now.
  modprobe ublk_drv || die ublk_drv
  is "the second answer" "$(cairn volume export pg --block auto 2>/dev/null)" "$device"
  quiet volume unexport pg || die unexport
  device=$(cairn volume export pg --block auto --logical-block 512 2>/dev/null) || die "with both"
  case $device in /dev/ublkb*) ;; *) die "$device with both" ;; esac
  is devices "$(devices)" 1
  is "logical block" "$(cat "/sys/block/${device#/dev/}/queue/logical_block_size")" 512
  # Remembered as what it is.
  stopped
  up
  is "after a restart" "$(cairn volume export pg --block auto 2>/dev/null)" "$device"
  quiet volume unexport pg || die unexport
  unloaded ublk_drv
}

resize_is_seen() {
  begin 64MiB
  quiet volume resize pg --size 128MiB || die resize
  for _ in $(seq 100); do
    [ "$(blockdev --getsize64 "$device")" = $((128 << 20)) ] && break
    sleep 0.1
  done
  is size "$(blockdev --getsize64 "$device")" $((128 << 20))
  dd if=/dev/zero of="$device" bs=1M seek=127 count=1 oflag=direct status=none || die "no writes at its end"
  # While requests wait, for a daemon that takes the device up: the kernel must not wait for them first.
  load
  under_load killed
  rm -rf $state
  up
  # shellcheck disable=SC2086
  cairn array assemble pool --scan $members $spare >/dev/null 2>&1 ||
    quiet array assemble pool --scan $members $spare --force || die assemble
  quiet volume resize pg --size 192MiB || die "resize while nobody serves"
  is device "$(timeout 60 "$bin/cairn" volume export pg --kernel-nbd 2>/dev/null)" "$device"
  for _ in $(seq 100); do
    [ "$(blockdev --getsize64 "$device")" = $((192 << 20)) ] && break
    sleep 0.1
  done
  content
  is "size that was seen late" "$(blockdev --getsize64 "$device")" $((192 << 20))
}

left_device_is_taken_up() {
  begin 128MiB --logical-block 512
  yes cairn | head -c 1M >/run/data
  dd if=/run/data of="$device" bs=1M oflag=direct status=none || die write
  killed
  # The daemon's memory is lost, the device is not.
  rm -rf $state
  up
  # shellcheck disable=SC2086
  cairn array assemble pool --scan $members $spare >/dev/null 2>&1 ||
    quiet array assemble pool --scan $members $spare --force || die assemble
  cairn events | grep -q DeviceLeft || die "nobody is told"
  said=$(cairn volume export pg --nbd unix:/run/pg.sock 2>&1) && die "a second writer beside the device that is left"
  echo "$said" | grep -q "is $device already, left by an earlier daemon" || die "$said"
  modprobe ublk_drv
  said=$(cairn volume export pg --ublk 2>&1) && die "a second device beside the one that is left"
  echo "$said" | grep -q -- "--kernel-nbd. takes it up" || die "$said"
  # What waits there would be refused.
  for how in --kernel-nbd "--block auto"; do
    # shellcheck disable=SC2086
    said=$(cairn volume export pg $how --read-only 2>&1) && die "a device that takes writes is served without them"
    echo "$said" | grep -q "takes writes" || die "$said"
  done
  # Also by the choice: it isn't left behind for something better.
  is device "$(cairn volume export pg --block auto --logical-block 4096 2>/run/said)" "$device"
  grep -q "its logical block stays 512 bytes" /run/said || die "not said: $(cat /run/said)"
  unloaded ublk_drv
  is devices "$(devices)" 1
  # By which a file system on it goes.
  is "its block, which nobody has asked for" "$(queue logical_block_size)" 512
  quiet volume export pg --kernel-nbd --logical-block 4096 && die "its block isn't remembered"
  dd if="$device" bs=1M count=1 iflag=direct status=none | cmp - /run/data || die "other data"
}

# --- running them ------------------------------------------------------------------------------------

keep_promises "$@"
