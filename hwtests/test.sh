#!/bin/sh
# All of Cairn's tests: `sh hwtests/test.sh`. Exits with 0 only if every part passed.
#
#   sh hwtests/test.sh              everything, as CI runs it
#   sh hwtests/test.sh --quick      without storm, the end-to-end tests, the benches and the demo; needs no root
#   sh hwtests/test.sh --full       everything, and all rounds of what CI does a few of; over an hour
#   sh hwtests/test.sh --kernel     block devices in virtual machines, all of it: a quarter of an hour
#   sh hwtests/test.sh fmt clippy   these parts alone; --list shows them
#
# What it needs and isn't there it installs by apt where it may (as root); else it says exactly what
# is missing, and fails. Nothing is skipped silently.
set -u

cd "$(dirname "$0")/.." || exit 1
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:/usr/local/sbin:/usr/sbin:/sbin
export PATH
target=${CARGO_TARGET_DIR:-target}

all="fmt clippy build tests doc fuzz storm end-to-end bench kernel demo"
quick="fmt clippy build tests doc fuzz"
parts=
full=
kernel=smoke
for argument in "$@"; do
  case $argument in
    --quick) parts="$parts $quick" ;;
    --full)
      full=yes
      kernel=whole
      ;;
    --kernel)
      parts="$parts build kernel"
      kernel=whole
      ;;
    --list)
      echo "$all" | tr ' ' '\n'
      exit 0
      ;;
    -h | --help)
      sed -n '2,11s/^# \{0,1\}//p' hwtests/test.sh
      exit 0
      ;;
    *)
      case " $all " in
        *" $argument "*) parts="$parts $argument" ;;
        *)
          echo "test.sh: no part $argument; there are: $all" >&2
          exit 3
          ;;
      esac
      ;;
  esac
done
parts=${parts:-$all}
profile=default
if [ -n "$full" ]; then
  # Hundreds of rounds take longer than a test that hangs is given elsewhere.
  profile=full
  CAIRN_E2E_FULL=1
  export CAIRN_E2E_FULL
fi

wants() {
  case " $parts " in
    *" $1 "*) return 0 ;;
    *) return 1 ;;
  esac
}

# --- what the tests need -------------------------------------------------------------------------

missing=
packages=

# lacks WHAT PACKAGE… : notes that it is missing, and which packages (Debian's names) may have it.
lacks() {
  missing="$missing
  $1 (apt-get install $2)"
  packages="$packages $2"
}

program() {
  command -v "$1" >/dev/null 2>&1 || lacks "$1" "$2"
}

look() {
  # A shell that has found a program once may go on finding it when it is gone.
  hash -r
  missing=
  packages=
  program cc gcc
  wants fuzz && program c++ g++
  wants kernel && look_kernel
  if wants bench; then
    program qemu-nbd qemu-utils
    program btrfs btrfs-progs
  fi
  wants end-to-end || wants bench || return 0
  program fio fio
  program nbdkit nbdkit
  program nbdinfo libnbd-bin
  program nbdcopy libnbd-bin
  # In a package of its own in some releases.
  program nbdfuse "libnbd-bin nbdfuse"
  /usr/bin/python3 -c 'import nbd' 2>/dev/null || lacks "Python's module nbd" python3-libnbd
  program qemu-img qemu-utils
  program qemu-io qemu-utils
  program mkfs.ext4 e2fsprogs
  program mkfs.xfs xfsprogs
  program mkfs.btrfs btrfs-progs
  program pvcreate lvm2
  program parted parted
  program mkswap util-linux
  program wipefs util-linux
  program runuser util-linux
  program losetup mount
  program systemd-analyze systemd
  # The shell has one of its own, which a unit can't run.
  [ -x /bin/kill ] || lacks /bin/kill procps
  # For the newer clients: lab/newer-clients.sh.
  program mmdebstrap mmdebstrap
  program dpkg-source dpkg-dev
  program make make
  program openssl openssl
  program bison bison
  program flex flex
  program pkg-config pkg-config
  for library in glib-2.0:libglib2.0-dev gnutls:libgnutls28-dev; do
    pkg-config --exists "${library%%:*}" 2>/dev/null || lacks "the library ${library%%:*}" "${library#*:}"
  done
  look_postgres
}

# What the virtual machine is made of; the kernel itself is fetched by lab/kernel.sh.
look_kernel() {
  program qemu-system-x86_64 qemu-system-x86
  [ -x /usr/libexec/virtiofsd ] || [ -x /usr/lib/qemu/virtiofsd ] || lacks virtiofsd "qemu-system-common virtiofsd"
  program busybox busybox-static
  program cpio cpio
  program depmod kmod
  program xz xz-utils
  program setpriv util-linux
  program fio fio
  program mkfs.ext4 e2fsprogs
  program mkfs.xfs xfsprogs
  program nbd-client nbd-client
  program qemu-nbd qemu-utils
  program ip iproute2
  program ss iproute2
  program python3 python3
  # Its certificates are the files that are copied.
  program openssl openssl
  [ "$kernel" = whole ] || return 0
  program mdadm mdadm
  program runuser util-linux
  program losetup mount
  look_postgres
}

look_postgres() {
  for name in initdb pgbench pg_amcheck pg_checksums; do
    ls /usr/lib/postgresql/*/bin/$name >/dev/null 2>&1 || lacks "PostgreSQL's $name" postgresql
  done
}

install_packages() {
  echo "== installing:$packages"
  apt-get -qq update || echo "apt-get update failed; trying with the lists that are there" >&2
  have=
  # Not every release has every one of them.
  for package in $(echo "$packages" | tr ' ' '\n' | sort -u); do
    apt-cache show "$package" >/dev/null 2>&1 && have="$have $package"
  done
  # shellcheck disable=SC2086  # a list of words
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y $have >/dev/null
}

ready() {
  look
  # Again, if need be: what is installed may push out another release's package, which is then missing.
  for _ in 1 2; do
    if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
      install_packages
      look
    fi
  done
  if wants end-to-end || wants bench; then
    [ "$(id -u)" = 0 ] || missing="$missing
  root: the end-to-end tests and the benches attach loop devices and mount file systems (--quick does without)"
    [ -e /dev/loop-control ] || missing="$missing
  /dev/loop-control: loop devices (in a container: --privileged)"
    [ -e /dev/fuse ] || missing="$missing
  /dev/fuse: file systems in user space (in a container: --privileged)"
  fi
  command -v cargo >/dev/null 2>&1 || missing="$missing
  cargo: Rust's stable toolchain, see https://rustup.rs"
  if [ -n "$missing" ]; then
    echo "test.sh: missing:$missing" >&2
    return 1
  fi
  for component in rustfmt clippy; do
    subcommand=${component#rust}
    if ! cargo "$subcommand" --version >/dev/null 2>&1 && ! rustup component add "$component"; then
      echo "test.sh: missing: $component (rustup component add $component)" >&2
      return 1
    fi
  done
  if { wants build || wants tests || wants end-to-end || wants bench; } && ! cargo nextest --version >/dev/null 2>&1; then
    echo "== installing cargo-nextest"
    cargo install cargo-nextest --locked --quiet || {
      echo "test.sh: missing: cargo-nextest (cargo install cargo-nextest --locked)" >&2
      return 1
    }
  fi
}

# --- the parts -----------------------------------------------------------------------------------

# One profile for all, so that every crate is compiled once: the released one, whose checks stay on
# (overflow-checks, assert!).
part_fmt() {
  cargo fmt --all --check || return 1
  # Workspaces of their own, each.
  for manifest in */fuzz/Cargo.toml; do
    cargo fmt --manifest-path "$manifest" --check || return 1
  done
}

part_clippy() {
  cargo clippy --release --workspace --all-targets --locked -- -D warnings
}

part_build() {
  cargo nextest run --release --workspace --locked --no-run
}

part_tests() {
  cargo nextest run --release --workspace --locked -E 'not binary(e2e)'
}

part_doc() {
  cargo test --release --doc --workspace --locked
}

part_fuzz() {
  for manifest in */fuzz/Cargo.toml; do
    cargo check --manifest-path "$manifest" --locked --target-dir "$target/fuzz" || return 1
  done
}

# The simulator: random histories, every fault in every state, and in a full run whether it finds
# bugs that are planted.
part_storm() {
  seconds=60
  [ -z "$full" ] || seconds=600
  "$target/release/storm" --seconds "$seconds" --jobs 2 || return 1
  # With fewer seeds than it takes by itself some faults never strike, which it counts as a hole.
  "$target/release/storm" --matrix --jobs 2 ${full:+--seeds 32} || return 1
  [ -n "$full" ] || return 0
  "$target/release/storm" --aimed --jobs 2 && "$target/release/storm" --exhaustive --jobs 2 && part_mutations
}

# In a directory of its own: nothing that is built with planted bugs may lie where the others are.
part_mutations() {
  cargo build --release -p cairn-hwtests --bin storm --features mutations --locked \
    --target-dir "$target/mutations" &&
    "$target/mutations/release/storm" --mutations --jobs 2 &&
    cargo test --release -p cairn-raid --features mutations --test write_hole --locked \
      --target-dir "$target/mutations"
}

# Whether the benches work, in seconds; nothing is measured. Without ISA-L the kernels are compared with
# each other alone, so it is fetched where that is possible.
#
# Of the whole workspace, as `build` has it: some packages by themselves have other features of what they
# depend on, and all of that would be compiled once more.
part_bench() {
  timeout 60 bash hwtests/lab/isal.sh || echo "no ISA-L: our kernels are compared with each other alone" >&2
  part_build && cargo bench --workspace --bench kernels --locked -- --test || return 1
  for what in array rebuild "scrub --peer btrfs" nbd scale memory; do
    # shellcheck disable=SC2086  # a list of words
    CAIRN_BIN_DIR=$target/release "$target/release/bench" $what --smoke || return 1
  done
}

part_end_to_end() {
  # Before the tests, none of which has time to wait for it.
  sh hwtests/lab/newer-clients.sh \
    "${CAIRN_NEWER_CLIENTS:-${XDG_CACHE_HOME:-$HOME/.cache}/cairn-lab/newer-clients}" || return 1
  cargo nextest run --release --workspace --locked --profile "$profile" -E 'binary(e2e)'
}

# On a kernel that has what this host's may not have; emulated, so for right or wrong alone.
part_kernel() {
  CAIRN_BIN_DIR=$target/release bash hwtests/lab/machines.sh "$kernel" &
  machines=$!
  # It ends its machines; an end of this script by KILL leaves them to their own time limit.
  trap 'kill $machines; wait $machines; exit 130' INT TERM HUP
  wait $machines
  code=$?
  trap - INT TERM HUP
  return $code
}

part_demo() {
  "$target/release/cairn" demo
}

# --- running them --------------------------------------------------------------------------------

ready || exit 1
passed=0
failed=0
built=
report=
for part in $all; do
  wants "$part" || continue
  echo "== $part"
  begin=$(date +%s)
  case $built$part in
    notests | nostorm | noend-to-end | nobench | nokernel | nodemo)
      echo "not run: the build failed"
      false
      ;;
    *) "part_$(echo "$part" | tr - _)" ;;
  esac
  code=$?
  if [ $code = 0 ]; then
    passed=$((passed + 1))
    verdict=passed
  else
    failed=$((failed + 1))
    verdict=FAILED
    [ "$part" = build ] && built=no
  fi
  report="$report
  $verdict $part ($(($(date +%s) - begin)) s)"
done
echo "== parts:$report"
[ "$parts" = "$all" ] || echo "  not run: all the others of: $all"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
