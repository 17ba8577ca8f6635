#!/bin/bash
# md.sh: Linux's own md reads what Cairn wrote. The geometry promise of raid/README.md: a stopped
# array's members, given md's superblocks, are an md array that holds the same bytes in every written row.
#
#   md.sh              RAID 5 and RAID 6, in a virtual machine with md: about two minutes
#   md.sh raid5|raid6  one of them
#
# Binaries: CAIRN_BIN_DIR, else target/release. Needs mdadm and what vm.sh does.
# Inside (that is how it calls itself): volumes are written, trimmed and deleted, read through Cairn and
# stopped; then md assembles the members read-only, all of them, without each one, and with RAID 6 without
# five pairs, and every written row is compared. At the end md checks all parity, and Cairn has its array again.
set -u

bin=${CAIRN_BIN_DIR:-${CARGO_TARGET_DIR:-target}/release}

if [ "${1:-}" != --inside ]; then
  self=$(realpath "$0")
  bin=$(realpath "$bin") || exit 1
  for program in cairn cairnd lab; do
    [ -x "$bin/$program" ] || {
      echo "md.sh: no $bin/$program: cargo build --release -p cairnd -p cairn-tools -p cairn-hwtests --bins" >&2
      exit 1
    }
  done
  DISKS=5 DISK_MIB=200 TIMEOUT=${TIMEOUT:-900} MODULES='virtio_blk ublk_drv raid456' \
    exec bash "$(dirname "$self")/vm.sh" "CAIRN_BIN_DIR='$bin' bash '$self' --inside ${*:-raid5 raid6}"
fi
shift

# --- inside ------------------------------------------------------------------------------------------

bin=$CAIRN_BIN_DIR
. "$(dirname "$(realpath "$0")")/inside.sh"
lab=$bin/lab
md=/dev/md0

# Bytes that are nowhere twice, FROM a place of a volume's device on: write VOLUME MIB_AT KIB_MORE KIB_LONG
write() {
  dd if=/dev/urandom of="$(device "$1")" bs=64K oflag=direct,seek_bytes,dsync conv=notrunc iflag=fullblock \
    seek=$((($2 << 20) + ($3 << 10))) count=$(($4 / 64)) status=none || die "write to $1"
}

device() { cat "/run/$1.device"; }

volume() {
  cairn volume create "$1" --array pool --size "$2" 2>/dev/null >&2 || die "volume $1"
  cairn volume export "$1" --ublk 2>/dev/null >"/run/$1.device" || die "export $1"
}

# A volume as Cairn reads it.
image() {
  dd if="$(device "$1")" of="/run/$1.$2" bs=1M iflag=direct conv=sparse status=none || die "read of $1"
}

# What lies between md's part of the members and Cairn's first zone.
labels() {
  for disk in "$@"; do dd if="$disk" bs=1M skip=2 count=2 iflag=direct status=none; done | md5sum
}

# assembled DISK…: md reads it like Cairn from these.
assembled() {
  # Without udev, whom it would wait for.
  MDADM_NO_UDEV=1 mdadm --quiet --assemble --readonly --run $md "$@" || die "md doesn't assemble $*"
  is "md's state" "$(cat /sys/block/md0/md/array_state)" readonly
  is "md's members" "$(ls -d /sys/block/md0/md/rd[0-9]* | wc -l)" $#
  # shellcheck disable=SC2086  # a list of words
  "$lab" compare --md $md $volumes $disks >/run/compared || die "with $*"
  mdadm --quiet --stop $md || die "md doesn't stop"
}

# without GONE…: the same with these away.
without() {
  local left="" disk
  for disk in $disks; do
    case " $* " in *" $disk "*) ;; *) left="$left $disk" ;; esac
  done
  # shellcheck disable=SC2086
  assembled $left
}

geometry() {
  level=$1
  chunk=$2
  shift 2
  disks=$*
  # What was on the disks before isn't theirs to keep.
  for disk in "$@"; do
    dd if=/dev/urandom of="$disk" bs=1M seek=64 count=8 oflag=direct status=none || die garbage
  done
  up
  cairn array create pool --level "$level" --chunk "$chunk" --disks "$@" 2>/dev/null || die create
  volume old 64MiB
  write old 0 0 3072
  write old 40 4 1024
  volume a 130MiB
  volume b 70MiB
  # Whole rows and parts of them, on both sides of the border of two extents, over and beside each other.
  write a 0 0 4096
  write b 3 36 2048
  write a 2 12 512
  write a 95 500 2048
  write b 60 4 64
  write a 126 0 1024
  # Rows that were written and aren't any more, and extents that change hands.
  blkdiscard -o $((1 << 20)) -l $((1 << 20)) "$(device a)" || die discard
  quiet volume unexport old --force --yes && quiet volume delete old --yes || die delete
  volume c 20MiB
  write c 5 4 1024
  volumes=
  for name in a b c; do
    image $name image
    volumes="$volumes --volume $name=/run/$name.image"
  done
  quiet array stop pool --yes || die stop
  stopped
  # shellcheck disable=SC2086
  "$lab" handover $volumes $disks || die handover
  mdadm --examine "$1" | grep -q 'Checksum.*correct' || die "md doesn't like the superblock"
  labels "$@" >/run/labels
  # shellcheck disable=SC2086
  assembled $disks
  sed 's/^/  /' /run/compared
  for one in "$@"; do
    without "$one"
  done
  # What lies on a disk goes round with the rows: of five, neighbours and those with one between them are all
  # pairs of what a row has.
  [ "$level" != raid6 ] || {
    without "$1" "$2"
    without "$3" "$4"
    without "$1" "$3"
    without "$2" "$5"
    without "$5" "$1"
  }
  labels "$@" | cmp - /run/labels || die "md wrote where Cairn's labels are"

  # All parity of all rows, also those of zeros.
  MDADM_NO_UDEV=1 mdadm --quiet --assemble $md "$@" || die "md doesn't assemble"
  echo check >/sys/block/md0/md/sync_action
  for _ in $(seq 1200); do
    [ "$(cat /sys/block/md0/md/sync_action)" = check ] || break
    sleep 0.1
  done
  is "md's last action" "$(cat /sys/block/md0/md/last_sync_action)" check
  is "sectors that md finds wrong" "$(cat /sys/block/md0/md/mismatch_cnt)" 0
  mdadm --quiet --stop $md || die "md doesn't stop"

  mdadm --quiet --zero-superblock "$@" || die "md's superblocks stay"
  up
  quiet array show pool || die "the array isn't there again"
  quiet array assemble pool
  for name in a b c; do
    cairn volume export $name --ublk 2>/dev/null >"/run/$name.device" || die "export of $name again"
    image $name again
    cmp "/run/$name.image" "/run/$name.again" || die "$name is another after md had it"
  done
  is "pool" "$(cairn -o json array show pool | tr -d ' \n' | grep -o '"state":"[a-z]*"' | head -n 1)" '"state":"clean"'
}

# Blank disks for the next.
tidy() {
  mdadm --quiet --stop $md 2>/dev/null
  for name in a b c old; do quiet volume unexport $name --force --yes; done
  kill -9 "$daemon" 2>/dev/null
  wait "$daemon" 2>/dev/null
  rm -rf $state /run/*.image /run/*.again /run/*.device
  for disk in /dev/vd?; do blkdiscard -f "$disk" 2>/dev/null; done
}

failed=0
for level in "$@"; do
  begun=$(date +%s)
  if (
    trap tidy EXIT
    case $level in
      raid5) geometry raid5 16KiB /dev/vdb /dev/vdd /dev/vda /dev/vdc ;;
      raid6) geometry raid6 64KiB /dev/vde /dev/vda /dev/vdd /dev/vdb /dev/vdc ;;
      *) die "no level $level" ;;
    esac
  ); then
    echo "ok md_reads_every_written_row_of_$level ($(($(date +%s) - begun)) s)"
  else
    failed=$((failed + 1))
    echo "FAILED md_reads_every_written_row_of_$level ($(($(date +%s) - begun)) s)"
    tail -n 15 /vmout/cairnd.log
    cat /proc/mdstat
    dmesg | grep -iE 'md|raid' | tail -n 8
  fi
  rm -f /vmout/cairnd.log
done
[ "$failed" = 0 ]
