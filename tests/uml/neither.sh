# A kernel with neither tun nor veth: the daemon says so, in one line, and ends.
. "${0%/*}/proof.sh"
status=0
timeout 20 "$PONTOON_BIN" daemon --state-dir /run/state --run-dir /run/pontoon >/run/log 2>&1 ||
    status=$?
cat /run/log
[ $status != 0 ] || fail 'it should have failed'
[ $status != 124 ] || fail 'it should have ended'
[ "$(grep -c 'neither tun nor veth' /run/log)" = 1 ] || fail 'it should have said why'
[ "$(wc -l </run/log)" = 1 ] || fail 'one line should do'
