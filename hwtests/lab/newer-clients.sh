#!/bin/sh
# newer-clients.sh DIR: NBD clients of a newer release than the host's, and nbd-tester-client, in DIR.
#
#   DIR/run PROGRAM ARGUMENTS…   qemu-img, qemu-io, nbdinfo, nbdcopy of that release, by their own loader
#   DIR/nbd-tester-client        of the NBD project's test suite, built from Debian's source package
#   DIR/tests/*.tr               recorded transactions that it plays
#
# Debian 12 has qemu 7.2 and libnbd 1.14, which know no extended headers. Nothing is installed on the
# host; a second call finds everything there. Wants mmdebstrap, dpkg-dev, gcc, make, pkg-config,
# libglib2.0-dev, libgnutls28-dev, bison and flex.
set -eu
dir=${1:?where to}
suite=${SUITE:-trixie}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
# Several test programs may ask at once.
exec 9>"$dir/lock"
flock 9
[ -e "$dir/complete-$suite" ] && exit 0

# The mirror that this machine uses already.
mirror=$(grep -rhoE '(https?|file)://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
  head -1 | tr -d ' ')
mirror=${mirror:-http://deb.debian.org/debian}

root=$dir/root
rm -rf "$root"
# Unpacked only: nothing of it runs as a system of its own.
mmdebstrap --quiet --variant=extract --include=qemu-utils,libnbd-bin "$suite" "$root" "$mirror"
cat >"$dir/run" <<'RUN'
#!/bin/sh
# run PROGRAM ARGUMENTS…
here=$(dirname "$0")
lib=$here/root/usr/lib/x86_64-linux-gnu
program=$1
shift
exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$here/root/usr/bin/$program" "$@"
RUN
chmod +x "$dir/run"

source=$dir/source
rm -rf "$source"
mkdir -p "$source/lists/partial"
cd "$source"
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >sources.list
options="-oDir::State::Lists=$source/lists -oDir::Etc::SourceList=$source/sources.list
  -oDir::Etc::SourceParts=/nonexistent -oAPT::Sandbox::User=root"
# shellcheck disable=SC2086  # a list of words
apt-get $options -qq update
# shellcheck disable=SC2086
apt-get $options -qq --download-only source nbd
tar -xf nbd_*.orig.tar.*
cd nbd-*/
# Any answer will do for the manuals' tool: none is made.
DB2M=true ./configure >configure.log 2>&1 || { tail -20 configure.log >&2; exit 1; }
make -C tests/run nbd-tester-client >make.log 2>&1 || { tail -20 make.log >&2; exit 1; }
mkdir -p "$dir/tests"
cp tests/run/nbd-tester-client "$dir/"
cp tests/run/*.tr "$dir/tests/"
cd /
rm -rf "$source"
touch "$dir/complete-$suite"
