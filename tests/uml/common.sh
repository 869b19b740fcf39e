# Sourced by the other scripts: what more than one of them does.

set -eu
fail() { echo "FAILED: $*"; exit 1; }
on_host() { ip netns exec host "$@"; }

# Starts a daemon in the namespace `host`, with these options, and waits for it; $daemon is its pid.
start_daemon() {
    export PONTOON_SOCKET=/run/pontoon/pontoon.sock
    # Not by on_host: of a function in the background, $! is a shell.
    ip netns exec host "$PONTOON_BIN" daemon --state-dir /run/state --run-dir /run/pontoon "$@" \
        >/run/log 2>&1 &
    daemon=$!
    tries=0
    until on_host "$PONTOON_BIN" info >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] && kill -0 $daemon 2>/dev/null || { cat /run/log; fail 'no daemon'; }
        sleep 0.1
    done
}
