#!/bin/bash
# ublk.sh: what a volume promises as /dev/ublkbN, in a virtual machine with a kernel that has ublk.
#
#   ublk.sh smoke      the device, ext4, kill -9 and restarts under fio, refusals: two minutes
#   ublk.sh whole      also kill -9 under file systems, trim, a failed member, zeroing, resizing, memory pressure
#   ublk.sh PROMISE…   some by name; --list names them
#
# Binaries: CAIRN_BIN_DIR, else target/release. Needs fio, mkfs.ext4, mkfs.xfs, PostgreSQL, and what vm.sh does.
# Inside the machine (that is how it calls itself) every promise gets an array of its own: RAID 6 on
# four virtio disks, one spare, a volume, its device.
set -u

# Those of the smoke first.
smoke="device_is_what_it_says kill_9_is_a_pause restart_is_a_pause in_use_stays refusals"
whole="$smoke blocks_of_512 read_is_one_thread_s kill_9_under_ext4 kill_9_under_xfs
 trim_gives_extents_back member_fails_and_is_rebuilt zeroes_and_discards resize_is_seen_or_said
 left_device_is_taken_up_or_removed older_state_makes_no_second_writer array_stops_and_goes_on memory_pressure
 postgres_runs_through_an_upgrade"
# By name alone: what a newer kernel has, and what the whole of kernel-nbd.sh looks at for both.
others="resize_is_seen memory_limits"

bin=${CAIRN_BIN_DIR:-${CARGO_TARGET_DIR:-target}/release}

if [ "${1:-}" != --inside ]; then
  case ${1:-smoke} in
    --list)
      # shellcheck disable=SC2086  # a list of words
      printf '%s\n' $whole $others
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
      echo "ublk.sh: no $bin/$program: cargo build --release -p cairnd -p cairn-tools --bins" >&2
      exit 1
    }
  done
  here=$(dirname "$self")
  run=$(mktemp -d)
  trap 'rm -rf "$run"' EXIT
  case $promises in
    *postgres*)
      # A database made here: emulated it takes minutes. The machine sees it under its own path.
      mkdir "$run/mnt" && chmod 755 "$run" "$run/mnt"
      { SCALE=2 bash "$here/pg-on-nbd.sh" start "$run" && bash "$here/pg-on-nbd.sh" stop "$run"; } || exit 1
      ;;
  esac
  # shellcheck disable=SC2086
  DISKS=5 DISK_MIB=200 TIMEOUT=${TIMEOUT:-1500} MODULES='virtio_blk' \
    bash "$here/vm.sh" "CAIRN_BIN_DIR='$bin' DATABASE='$run/mnt/data' bash '$self' --inside $(echo $promises)"
  exit
fi
shift

# --- inside ------------------------------------------------------------------------------------------

bin=$CAIRN_BIN_DIR
here=$(dirname "$(realpath "$0")")
. "$here/inside.sh"
. "$here/device.sh"
driver=ublk_drv
option=--ublk

# --- the promises ------------------------------------------------------------------------------------

device_is_what_it_says() {
  begin 128MiB
  is size "$(blockdev --getsize64 "$device")" $((128 << 20))
  is "logical block" "$(queue logical_block_size)" 4096
  is io_min "$(queue minimum_io_size)" 65536
  is io_opt "$(queue optimal_io_size)" 131072
  is "discard granularity" "$(queue discard_granularity)" 131072
  is cache "$(queue write_cache)" "write back"
  is fua "$(queue fua)" 1
  cairn volume show pg | grep -q "$device" || die "show doesn't name the device"
  mkfs.ext4 -q "$device" && mount "$device" /mnt || die ext4
  cp -r /etc/ssl /mnt/ && sync -f /mnt && umount /mnt || die files
  e2fsck -fn "$device" >/dev/null || die fsck
  quiet volume unexport pg || die unexport
  [ ! -e "$device" ] || die "$device is still there"
  quiet volume export pg --ublk --logical-block 512 --read-only || die "export again"
  is "logical block" "$(queue logical_block_size)" 512
  is read-only "$(cat "/sys/block/$name/ro")" 1
  mount -o ro,noload "$device" /mnt && diff -r /etc/ssl /mnt/ssl || die "what was written is another"
}

kill_9_is_a_pause() {
  begin
  load
  crashes 2 3
  content
  cairn events | grep -q DeviceTakenUp || die "no event"
}

in_use_stays() {
  begin
  mkfs.ext4 -q "$device" && mount "$device" /mnt || die ext4
  said=$(cairn volume unexport pg --yes 2>&1) && die "a mounted device was taken away"
  echo "$said" | grep -q "mounted at /mnt" || die "the holder isn't named: $said"
  echo "$said" | grep -q -- --force || die "no way on: $said"
  umount /mnt
  mounted_elsewhere
  sleep 30 <"$device" &
  user=$!
  said=$(cairn volume unexport pg 2>&1) && die "an open device was taken away"
  echo "$said" | grep -q "process $user (sleep)" || die "the process isn't named: $said"
  quiet volume unexport pg --force || die force
  [ ! -e "$device" ] || die "$device is still there"
  kill $user
}

refusals() {
  begin
  said=$(cairn volume export pg --nbd unix:/run/pg.sock 2>&1) && die "a second writer"
  echo "$said" | grep -q "at ublk" || die "$said"
  said=$(cairn volume export pg --ublk --logical-block 512 2>&1) && die "another kind"
  echo "$said" | grep -q unexport || die "$said"
  cairn volume export pg --ublk 2>&1 | grep -q already || die "not idempotent"
  quiet volume delete pg --yes && die "deleted while exported"
  quiet volume unexport pg || die unexport
  rmmod ublk_drv || die rmmod
  said=$(cairn volume export pg --ublk 2>&1) && die "without the module"
  echo "$said" | grep -q "modprobe ublk_drv" || die "$said"
  echo "$said" | grep -q -- --nbd || die "NBD isn't offered: $said"
  cairn volume show pg | grep -q ublkb && die "an export that failed is remembered"
  modprobe ublk_drv
  chmod 000 /dev/ublk-control
  stopped
  # Without the capability to pass by file modes, and without that to administer.
  up setpriv --bounding-set=-dac_override,-sys_admin
  said=$(cairn volume export pg --ublk 2>&1) && die "without permission"
  echo "$said" | grep -q "may not use ublk" || die "$said"
  chmod 600 /dev/ublk-control
  said=$(cairn volume export pg --ublk 2>&1) && die "without CAP_SYS_ADMIN"
  echo "$said" | grep -q "may not use ublk" || die "$said"
}

resize_is_seen_or_said() {
  begin 64MiB
  said=$(cairn volume resize pg --size 128MiB 2>&1) || die resize
  now=$(blockdev --getsize64 "$device")
  if [ "$now" != $((128 << 20)) ]; then
    is "size before" "$now" $((64 << 20))
    echo "$said" | grep -q "export it again" || die "not said: $said"
    # Linux has it from 6.16 on.
    kernel=$(uname -r)
    [ "$(printf '%s\n' 6.16 "$kernel" | sort -V | head -n 1)" = "$kernel" ] || die "not seen on Linux $kernel"
    # A restart takes the smaller device up again and leaves it as it is.
    killed
    up
    dd if="$device" of=/dev/null bs=1M count=4 iflag=direct status=none || die "no reads after it"
    quiet volume unexport pg && quiet volume export pg --ublk || die again
    is size "$(blockdev --getsize64 "$device")" $((128 << 20))
    echo "  this kernel has no UPDATE_SIZE: said"
  else
    echo "  UPDATE_SIZE: seen"
    seen=yes
  fi
}

# On a kernel that is known to have it.
resize_is_seen() {
  resize_is_seen_or_said
  [ -n "${seen:-}" ] || die "Linux $(uname -r) has no UPDATE_SIZE"
}

left_device_is_taken_up_or_removed() {
  begin 128MiB --logical-block 512
  yes cairn | head -c 1M >/run/data
  dd if=/run/data of="$device" bs=1M oflag=direct status=none || die write
  killed
  # The daemon's memory is lost, the device is not. Who may not ask says that there may be one.
  rm -rf $state
  up setpriv --bounding-set=-sys_admin
  # shellcheck disable=SC2086
  cairn array assemble pool --scan $members $spare >/dev/null 2>&1 ||
    quiet array assemble pool --scan $members $spare --force || die assemble
  cairn volume export pg --nbd unix:/run/pg.sock --dry-run 2>&1 | grep -q "whose they are can't be asked" || die "not said"
  killed
  rm -rf $state
  up
  # shellcheck disable=SC2086
  cairn array assemble pool --scan $members $spare >/dev/null 2>&1 ||
    quiet array assemble pool --scan $members $spare --force || die assemble
  cairn events | grep -q DeviceLeft || die "nobody is told"
  said=$(cairn volume export pg --nbd unix:/run/pg.sock 2>&1) && die "a second writer beside the device that is left"
  echo "$said" | grep -q "is $device already, left by an earlier daemon" || die "$said"
  is device "$(cairn volume export pg --ublk --logical-block 4096 2>/run/said)" "$device"
  grep -q "its logical block stays 512 bytes" /run/said || die "not said: $(cat /run/said)"
  quiet volume export pg --ublk --logical-block 4096 && die "its block isn't remembered"
  [ "$(ls -d /dev/ublkb* | wc -l)" = 1 ] || die "a second device"
  dd if="$device" bs=1M count=1 iflag=direct status=none | cmp - /run/data || die "other data"
  # Left over and not wanted any more: it can be removed although its array doesn't run.
  quiet array stop pool --yes || die stop
  quiet volume unexport pg || die unexport
  [ ! -e "$device" ] || die "$device is still there"
}

# PostgreSQL on ext4 on the device, under pgbench: the daemon is stopped and started, as an upgrade does
# it, and killed and started. No transaction may fail.
postgres_runs_through_an_upgrade() {
  begin 300MiB
  # Where PostgreSQL's processes share memory.
  mkdir -p /dev/shm && mount -t tmpfs -o mode=1777 shm /dev/shm
  pg="bash $here/pg-on-nbd.sh"
  mkdir -p /run/pg/mnt && chmod 755 /run/pg /run/pg/mnt
  mkfs.ext4 -q "$device" && mount "$device" /run/pg/mnt || die ext4
  cp -a "$DATABASE" /run/pg/mnt/data || die "the database can't be copied"
  $pg start /run/pg || die "PostgreSQL doesn't start"
  $pg load /run/pg 60 >/run/pg/load 2>&1 &
  load=$!
  sleep 15
  stopped
  up
  sleep 15
  killed
  up
  wait $load || die "pgbench: $(cat /run/pg/load)"
  sed 's/^/  /' /run/pg/load
  $pg check /run/pg || die "what pgbench left"
  $pg stop /run/pg || die "PostgreSQL's pages"
  umount /run/pg/mnt && e2fsck -fn "$device" >/dev/null 2>&1 || die fsck
  ! dmesg | grep -E 'I/O error|EXT4-fs error' || die "the kernel saw an error"
}

# --- running them ------------------------------------------------------------------------------------

keep_promises "$@"
