# The pause of a client that reads all the time, caused by a live update, at several sizes of the store. TO is the new
# image of the store, NODES the numbers of nodes, ROUNDS the number of updates at each size.
. /functions
TO=${TO:-/job/kernel}
NODES=${NODES:-100 10000 100000}
ROUNDS=${ROUNDS:-3}
have=0
for nodes in $NODES; do
    store-client nodes "/load/$nodes" $((nodes - have)) || { echo "FAILED: no $nodes nodes"; exit 1; }
    have=$nodes
    round=0
    while [ $round -lt "$ROUNDS" ]; do
        rm -f /tmp/enough
        store-client latency /tmp/enough >/tmp/latency 2>&1 &
        reader=$!
        usleep 1000000
        xenstore-control live-update -t 300 "$TO" >/tmp/update.out 2>&1 || echo "FAILED: $(tr '\n' ' ' </tmp/update.out)"
        usleep 500000
        : >/tmp/enough
        wait $reader
        echo "nodes=$nodes round=$round $(cat /tmp/latency)"
        round=$((round + 1))
    done
    [ "$TO" != /job/kernel ] || echo "report: $(xenstore-control update-report | tr '\n' ' ')"
done
