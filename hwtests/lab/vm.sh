#!/bin/bash
# vm.sh: runs a command in a virtual machine with a kernel of kernel.sh, for what this host's own
# kernel doesn't have (ublk, nbd, md, device mapper's test targets).
#
#   vm.sh 'command line'
#
# The guest's root is the host's, read-only over virtiofs with a layer in memory above it: every
# program and every binary built here is there under its own path, and what the guest writes is gone
# with it. /vmout in the guest is the host's directory OUT, to take results out. The processor is
# emulated, so it needs no virtualisation of its own and about 10 MB/s go through: for right or
# wrong, never for speed.
#
# The exit code is the command's; 125 if the machine failed or ran out of time.
#
# Settings (environment):
#   SUITE=trixie    release that the kernel is from        MEM=1536      MiB of memory
#   DISKS=0         fresh virtio disks, /dev/vda onwards   DISK_MIB=256  size of each
#   TIMEOUT=300     seconds from a start to the end        CPUS=2
#   BOOT_TIMEOUT=120   seconds until it is up, or it is started again, twice at most, with its time anew
#   MODULES='virtio_blk ublk_drv'      OUT=directory (a fresh one, removed at the end)
#   VERBOSE=        set: the kernel's log as well          APPEND=       more kernel arguments
set -eu

command=${1:?vm.sh: give a command line}
here=$(cd "$(dirname "$0")" && pwd)
suite=${SUITE:-trixie}
lab=${CAIRN_LAB:-${XDG_CACHE_HOME:-$HOME/.cache}/cairn-lab}
mem=${MEM:-1536}
cpus=${CPUS:-2}
disks=${DISKS:-0}
disk_mib=${DISK_MIB:-256}
timeout=${TIMEOUT:-300}
boot_timeout=${BOOT_TIMEOUT:-120}
modules=${MODULES-virtio_blk ublk_drv}

kernel=$(bash "$here/kernel.sh")
version=$(ls "$kernel/usr/lib/modules")
tree=$kernel/usr/lib/modules/$version
# Where the package is split, the kernel lies beside its modules.
image=$kernel/boot/vmlinuz-$version
[ -e "$image" ] || image=$tree/vmlinuz

run=$(mktemp -d)
out=${OUT:-$run/out}
mkdir -p "$out"
started=()
finish() {
  for pid in "${started[@]}"; do
    kill "$pid" 2>/dev/null || true
  done
  rm -rf "$run"
}
trap finish EXIT

# --- the first root, made once for each kernel: busybox, the modules that a root needs, and a script ---

initrd=$lab/initrd-$version.cpio
if [ ! -e "$initrd" ]; then
  root=$run/initrd
  mkdir -p "$root"/{bin,m,dev,low,up,new}
  cp "$(command -v busybox)" "$root/bin/busybox"
  # What of them the kernel itself has is none.
  number=10
  for module in virtio_pci virtiofs overlay; do
    modprobe --show-depends -d "$kernel" -S "$version" "$module" | sed -n 's/^insmod //p'
  done >"$run/insmods"
  while read -r file; do
    number=$((number + 1))
    case $file in
      *.xz) xz -dc "$file" >"$root/m/$number.ko" ;;
      *.ko) cp "$file" "$root/m/$number.ko" ;;
      *)
        echo "vm.sh: $file is packed in a way that isn't known here" >&2
        exit 1
        ;;
    esac
  done <"$run/insmods"
  cat >"$root/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
fail() { echo "vm.sh: $1"; $b poweroff -f; }
$b mount -t devtmpfs dev /dev
for module in /m/*; do
  # Several may need the same one.
  $b insmod $module 2>/dev/null
done
$b mount -t virtiofs -o ro root /low || fail "no root by virtiofs"
$b mount -t tmpfs -o size=75% up /up
$b mkdir /up/upper /up/work
$b mount -t overlay -o lowerdir=/low,upperdir=/up/upper,workdir=/up/work over /new || fail "no root"
$b mkdir -p /new/vmout
$b mount -t virtiofs out /new/vmout || fail "no /vmout by virtiofs"
$b mount --move /dev /new/dev
exec $b switch_root /new /bin/bash /vmout/.init
INIT
  chmod +x "$root/init"
  (cd "$root" && find . | cpio -o -H newc --quiet) >"$initrd.part.$$"
  mv "$initrd.part.$$" "$initrd"
fi

# --- the second: what an init does, then the command ---------------------------------------------------

printf '%s\n' "$command" >"$out/.command"
cat >"$out/.init" <<INIT
export PATH=$HOME/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=$HOME TERM=dumb
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
ln -sfn /proc/self/fd /dev/fd
ln -sfn /proc/self/fd/0 /dev/stdin
ln -sfn /proc/self/fd/1 /dev/stdout
ln -sfn /proc/self/fd/2 /dev/stderr
mkdir -p /lib/modules
ln -sfn "$tree" "/lib/modules/$version"
ip link set lo up
ulimit -n 65536
for module in $modules; do
  modprobe "\$module" || echo "vm.sh: no module \$module"
done
echo "vm.sh: Linux $version, up after \$(cut -d' ' -f1 /proc/uptime) s"
cd /vmout
bash /vmout/.command
echo "vm.sh: exit \$?"
sync
echo o >/proc/sysrq-trigger
sleep 60
INIT

# --- the devices -------------------------------------------------------------------------------------

boot() {
  for share in root:/ out:"$out"; do
    name=${share%%:*}
    # The host's root is taken to stand still, so that programs start in reasonable time.
    cache=auto
    [ "$name" = root ] && cache=always
    if [ -x /usr/libexec/virtiofsd ]; then
      server=(/usr/libexec/virtiofsd --shared-dir "${share#*:}" --cache $cache --sandbox chroot)
    else
      # QEMU's own, in older releases.
      server=(/usr/lib/qemu/virtiofsd -o source="${share#*:}" -o cache=$cache -o sandbox=chroot)
    fi
    rm -f "$run/$name.sock"
    "${server[@]}" --socket-path="$run/$name.sock" >"$run/$name.log" 2>&1 &
    started+=($!)
  done
  for _ in $(seq 250); do
    [ -S "$run/root.sock" ] && [ -S "$run/out.sock" ] && break
    sleep 0.02
  done

  # They say that they have a cache, and a flush costs nothing: this host outlives the guest, and they don't
  # outlive this script.
  drives=()
  for number in $(seq 0 $((disks - 1))); do
    truncate -s "${disk_mib}M" "$run/disk$number.img"
    drives+=(-drive "file=$run/disk$number.img,if=none,id=disk$number,format=raw,cache=unsafe,discard=unmap,werror=report,rerror=report"
      -device "virtio-blk-pci,drive=disk$number,serial=disk$number")
  done

  # The emulator now and then loses a processor's timer while the kernel starts, and the machine stands still with
  # nothing of ours in it yet: that is ended, and told.
  (
    sleep "$boot_timeout"
    grep -q "^vm.sh: Linux" "$run/console" || kill "$(cat "$run/qemu.pid")"
  ) >/dev/null 2>&1 &
  watch=$!
  started+=("$watch")

  # Without cx16, la57 and carry-less multiplication: all cost much under emulation, and nothing here needs
  # them (checksums have other ways). Without the check of the timer, which fails on a busy host. In the
  # foreground: who ends this script ends it too.
  timeout --foreground "$timeout" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max,-cx16,-la57,-pclmulqdq,-vpclmulqdq \
    -smp "$cpus" -m "$mem" -nodefaults -no-user-config -display none -no-reboot -serial stdio -pidfile "$run/qemu.pid" \
    -kernel "$image" -initrd "$initrd" \
    -append "console=ttyS0 panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check ${VERBOSE:+ignore_loglevel} ${VERBOSE:-quiet} ${APPEND:-}" \
    -object "memory-backend-memfd,id=mem,size=${mem}M,share=on" -numa node,memdev=mem \
    -chardev "socket,id=root,path=$run/root.sock" -device vhost-user-fs-pci,chardev=root,tag=root \
    -chardev "socket,id=out,path=$run/out.sock" -device vhost-user-fs-pci,chardev=out,tag=out \
    "${drives[@]}" </dev/null 2>&1 | sed -u 's/\r//g' | tee "$run/console"
  kill "$watch" 2>/dev/null || true
}

for attempt in 1 2 3; do
  : >"$run/console"
  boot
  grep -q "^vm.sh: Linux" "$run/console" && break
  echo "vm.sh: the machine didn't come up within $boot_timeout s (attempt $attempt of 3)"
done

# Not kept if it was made of too little.
! grep -q "^vm.sh: no root" "$run/console" || rm -f "$initrd"
code=$(sed -n 's/^vm\.sh: exit \([0-9]*\)$/\1/p' "$run/console" | tail -n 1)
[ -n "$code" ] || echo "vm.sh: the machine failed, or took more than its $timeout s" >&2
exit "${code:-125}"
