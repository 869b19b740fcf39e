# The main job, on the kernel without netfilter.
. "${0%/*}/proof.sh"
"$PONTOON_BIN" demo
