# inside.sh: what the scripts that run in vm.sh's machine share; sourced, not run.
#
# Wants: bin (the directory of cairn and cairnd). Gives: a daemon with its state in /run/state, and its
# log in /vmout/cairnd.log.
# shellcheck shell=bash
# shellcheck disable=SC2154  # bin is the caller's

state=/run/state
export CAIRN_SOCKET=$state/cairnd.sock
daemon=

die() {
  echo "  failed: $*" >&2
  exit 1
}

cairn() { "$bin/cairn" "$@"; }

# As cairn, without what it says of what it did.
quiet() { cairn "$@" >/dev/null 2>&1; }

# starts [PREFIX…]: starts the daemon, by way of another program or not.
starts() {
  mkdir -m 700 -p $state
  rm -f $CAIRN_SOCKET
  logged=$(($(stat -c %s /vmout/cairnd.log 2>/dev/null || echo 0) + 1))
  "$@" "$bin/cairnd" --state-dir $state >>/vmout/cairnd.log 2>&1 &
  daemon=$!
}

# up [PREFIX…]: starts the daemon and waits until it answers.
up() {
  starts "$@"
  answers
}

# Waits until the daemon answers, and has started its array, if it has one that starts: it says so in its log.
decided() {
  for _ in $(seq 600); do
    tail -c "+$logged" /vmout/cairnd.log | grep -q 'cairnd::daemon: ready' && return
    kill -0 "$daemon" || die "cairnd ended at its start"
    sleep 0.1
  done
  die "cairnd isn't ready"
}

answers() { decided; }

killed() {
  kill -9 "$daemon" || die "cairnd was gone already"
  wait "$daemon" 2>/dev/null
}

stopped() {
  kill "$daemon"
  wait "$daemon" || die "cairnd stopped with $?"
}

is() { [ "$2" = "$3" ] || die "$1 is $2, not $3"; }
