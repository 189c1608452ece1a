# One round of the benchmark: dom0's waits for the store, the throughput of GUESTS guests at once, and the pauses of
# live updates. The store is left alone for IDLE seconds. Each part is a section, so that a failure costs no other part.
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
