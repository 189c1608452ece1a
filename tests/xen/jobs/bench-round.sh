# One round of the benchmark: what dom0 waits for the store, what GUESTS guests at once get from it, and how long live updates
# stop it. IDLE is for how many seconds the store is left alone. A part a section, so that one that fails costs no other.
. /job/bench-functions.sh
GUESTS=${GUESTS:-4}
WORK_MS=${WORK_MS:-4000}
case $1 in
    alone)
        store-bench latency 300 >/dev/null
        report before
        store-bench latency 3000
        report after ;;
    guests)
        create_honest "$GUESTS" || exit 1
        store-bench ping 5 $ids
        report before
        store-bench work "$WORK_MS" $ids
        report after
        destroy_honest ;;
    idle)
        report before
        usleep $((IDLE * 1000000))
        report after ;;
    updates)
        updates "$NODES" "$ROUNDS" ;;
esac
