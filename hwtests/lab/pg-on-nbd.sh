#!/bin/bash
# PostgreSQL on an NBD export, without a kernel module: export → nbdfuse → loop → file system → PostgreSQL.
#
#   pg-on-nbd.sh attach DIR URI   the chain up to DIR/mnt; FRESH=1 makes the file system first
#   pg-on-nbd.sh start DIR        PostgreSQL in DIR/mnt/data, made with checksums if it isn't there
#   pg-on-nbd.sh load DIR SECS    pgbench; fails if a transaction failed
#   pg-on-nbd.sh torn DIR SECS    pgbench, whose disk may be gone at any moment: notes what was committed
#   pg-on-nbd.sh kept DIR         whatever `torn` noted is there
#   pg-on-nbd.sh check DIR        every index against its table (pg_amcheck); PostgreSQL runs
#   pg-on-nbd.sh stop DIR         a clean stop, then every page's checksum
#   pg-on-nbd.sh detach DIR       unmounts and takes the chain down
#   pg-on-nbd.sh down DIR         whatever is up, however it stands
#
# env: FS=ext4|xfs  SECT=512|4096 (of the loop)  CONN=4 (NBD connections)  SCALE=5 (pgbench)
# Wants root and Debian's packages: libnbd-bin postgresql e2fsprogs xfsprogs mount util-linux.
# DIR must be one that the user postgres can reach, and short: a socket lies in it.
set -eu

verb=${1:?verb: attach start load torn kept check stop detach down}
dir=$(realpath -m "${2:?directory}")
fs=${FS:-ext4}
mnt=$dir/mnt
data=$mnt/data
bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
export PGHOST=$dir/run PGUSER=postgres PGDATABASE=postgres

die() {
  echo "pg-on-nbd: $*" >&2
  exit 1
}

need() {
  command -v "$1" >/dev/null || die "$1 isn't installed: apt-get install $2"
}

as_postgres() {
  (cd / && exec runuser -u postgres -- "$@")
}

# The loop over our nbdfuse file, if there is one. By a note: a file whose server is gone can't be looked up.
device() {
  cat "$dir/loop" 2>/dev/null
}

# Says so when it is detached, or is to be at its last close.
detach_loop() {
  losetup -d "$(device)" && rm -f "$dir/loop"
}

attach() {
  local uri=${1:?URI} loop
  need nbdfuse libnbd-bin
  mkdir -p "$dir/fuse" "$mnt"
  chmod 755 "$dir" "$mnt"
  nbdfuse -C "${CONN:-4}" -P "$dir/nbdfuse.pid" "$dir/fuse/" "$uri" </dev/null >"$dir/nbdfuse.log" 2>&1 &
  for _ in $(seq 200); do
    [ -e "$dir/fuse/nbd" ] && break
    sleep 0.05
  done
  [ -e "$dir/fuse/nbd" ] || die "nbdfuse can't open $uri: $(cat "$dir/nbdfuse.log")"
  loop=$(losetup --find --show --direct-io=on --sector-size "${SECT:-512}" "$dir/fuse/nbd")
  echo "$loop" >"$dir/loop"
  # A loop keeps what its number was told before, also that there is nothing to flush.
  echo "write back" >"/sys/block/${loop#/dev/}/queue/write_cache"
  if [ -n "${FRESH:-}" ]; then
    need "mkfs.$fs" "e2fsprogs xfsprogs"
    case $fs in
      ext4) mkfs.ext4 -q -F "$loop" ;;
      xfs) mkfs.xfs -q -f "$loop" ;;
      *) die "FS=$fs: ext4 or xfs" ;;
    esac
  fi
  mount -t "$fs" "$loop" "$mnt"
}

start() {
  [ -n "$bin" ] || die "PostgreSQL isn't installed: apt-get install postgresql"
  install -d -o postgres -g postgres -m 755 "$dir/run"
  if [ ! -d "$data" ]; then
    install -d -o postgres -g postgres -m 700 "$data"
    as_postgres "$bin/initdb" --data-checksums --pgdata "$data" >"$dir/initdb.log" 2>&1 ||
      die "initdb failed: $(tail -n 5 "$dir/initdb.log")"
  fi
  as_postgres "$bin/pg_ctl" -w -D "$data" -l "$data/server.log" start -o \
    "-c unix_socket_directories=$dir/run -c listen_addresses= -c shared_buffers=64MB -c fsync=on" \
    >"$dir/pg_ctl.log" || die "PostgreSQL doesn't start: $(tail -n 5 "$data/server.log")"
  if ! psql -Atqc 'select 1 from pgbench_accounts limit 1' >/dev/null 2>&1; then
    "$bin/pgbench" -q -i -s "${SCALE:-5}" >"$dir/pgbench-init.log" 2>&1 ||
      die "pgbench -i failed: $(tail -n 5 "$dir/pgbench-init.log")"
  fi
}

load() {
  local out
  # It ends with an error when a client lost its connection or got one from the server. Without
  # --no-vacuum it would empty its history first, which `check` adds up.
  out=$("$bin/pgbench" --no-vacuum -c 8 -j 2 -T "${1:?seconds}" 2>&1) || die "pgbench failed: $out"
  printf '%s\n' "$out" | grep -E 'transactions|tps|latency average'
  printf '%s\n' "$out" | grep -q 'failed transactions: 0 ' || die "transactions failed: $out"
  psql -Atqc checkpoint
}

history_rows() {
  psql -Atqc 'select count(*) from pgbench_history'
}

torn() {
  local before out processed
  before=$(history_rows)
  # It gives up when its connections are gone, and says how many transactions were answered.
  out=$("$bin/pgbench" --no-vacuum -c 8 -j 2 -T "${1:?seconds}" 2>&1) || true
  processed=$(printf '%s\n' "$out" | sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p')
  [ -n "$processed" ] || die "pgbench doesn't say how far it came: $out"
  echo $((before + processed)) >"$dir/committed"
  echo "$processed transactions were committed"
}

kept() {
  local rows committed
  committed=$(cat "$dir/committed")
  rows=$(history_rows)
  [ "$rows" -ge "$committed" ] || die "of $committed transactions that were committed $rows are there"
  echo "all $committed transactions that were committed are there"
}

check() {
  "$bin/pg_amcheck" --all --install-missing --heapallindexed --parent-check
  # pgbench's own invariant: every transaction moved the same amount in four tables.
  local sums
  sums=$(psql -Atqc "select count(*) from (select sum(abalance) s from pgbench_accounts
    union select sum(bbalance) from pgbench_branches union select sum(tbalance) from pgbench_tellers
    union select coalesce(sum(delta), 0) from pgbench_history) balances")
  [ "$sums" = 1 ] || die "the balances of pgbench's tables differ"
  echo "amcheck and balances are clean"
}

stop() {
  as_postgres "$bin/pg_ctl" -w -D "$data" -m fast stop >"$dir/pg_ctl.log"
  "$bin/pg_controldata" "$data" | grep -q 'cluster state: *shut down$' || die "PostgreSQL wasn't shut down cleanly"
  as_postgres "$bin/pg_checksums" --check -D "$data" | grep -E 'scanned|Bad'
}

detach() {
  umount "$mnt"
  detach_loop
  umount_fuse
}

# Also of a file system whose server is gone, which can't be looked at.
is_mounted() {
  grep -q "^[^ ]* $1 " /proc/self/mounts
}

# The last close of the loop may still be under way.
umount_fuse() {
  for _ in $(seq 100); do
    umount "$dir/fuse" 2>/dev/null && return
    sleep 0.05
  done
  die "$dir/fuse is busy"
}

down() {
  set +e
  if [ -f "$data/postmaster.pid" ]; then
    kill -QUIT "$(head -n 1 "$data/postmaster.pid")"
    for _ in $(seq 100); do
      [ -d "/proc/$(head -n 1 "$data/postmaster.pid" 2>/dev/null)" ] || break
      sleep 0.05
    done
  fi
  is_mounted "$mnt" && { umount "$mnt" || umount -l "$mnt"; }
  # The last process that had a file open may be dying just now.
  for _ in $(seq 100); do
    [ -n "$(device)" ] || break
    detach_loop && break
    sleep 0.05
  done
  is_mounted "$dir/fuse" && { umount "$dir/fuse" || umount -l "$dir/fuse"; }
  return 0
}

[ "$(id -u)" = 0 ] || die "run it as root: it attaches loops and mounts"
shift 2
case $verb in
  attach | start | load | torn | kept | check | stop | detach | down) "$verb" "$@" ;;
  *) die "no verb $verb" ;;
esac
