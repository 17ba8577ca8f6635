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

# Starts the daemon and waits until it answers.
up() {
  mkdir -m 700 -p $state
  rm -f $CAIRN_SOCKET
  "$bin/cairnd" --state-dir $state >>/vmout/cairnd.log 2>&1 &
  daemon=$!
  answers
}

# Waits until the daemon answers, and its array, if it has one, is started.
answers() {
  for _ in $(seq 300); do
    quiet array wait pool --for idle --timeout 60s
    # 4: it can't be reached. Where there is no array there is nothing to wait for.
    [ $? -eq 4 ] || return 0
    sleep 0.1
  done
  die "cairnd doesn't answer"
}

killed() {
  kill -9 "$daemon"
  wait "$daemon" 2>/dev/null
}

stopped() {
  kill "$daemon"
  wait "$daemon" || die "cairnd stopped with $?"
}

is() { [ "$2" = "$3" ] || die "$1 is $2, not $3"; }
