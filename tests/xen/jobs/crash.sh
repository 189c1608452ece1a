# The kernel crashes in a request of dom0 and of a guest, and continues. This needs an image that crashes on request.
. /functions
. /job/guest-functions.sh
node=/tool/xenstored/crash
# Rounds that each client makes before the first crash and after the last.
ROUNDS=${ROUNDS:-60}
# has_counted PATH: succeeds if that client has made this number of rounds in all.
has_counted() { [ "$(xenstore-read "$1")" -ge "$rounds" ]; }

start pv hammer
id=$(xl domid pv)
counter=/local/domain/$id/data/hammer/counter
until_true 100 xenstore-read "$counter" || echo "FAILED: pv does not hammer"
sed 's/^name = .*/name = "crasher"/' /root/pv.cfg >/root/crasher.cfg
start crasher crash
crasher=$(xl domid crasher)
until_true 100 xenstore-exists "/local/domain/$crasher/data/ready" || echo "FAILED: the other guest is not ready"
store-hammer dom0 /hammer >/tmp/hammered 2>&1 &
hammer=$!
rounds=$ROUNDS
for client in /hammer/counter "$counter"; do
    until_true 60 has_counted "$client" || echo "FAILED: $client is not at $rounds before the crashes"
done

for how in panic fault; do
    said=$(xenstore-write /crash-by-$how x 2>&1) && echo "FAILED: dom0's request was done"
    echo "dom0 $how: $said; $(xenstore-read $node)"
    xenstore-rm $node
done
xenstore-write "/local/domain/$crasher/data/go" 1
until_true 60 xenstore-exists $node || echo "FAILED: the guest's crash is not reported"
echo "guest: $(xenstore-read $node | sed "s/domain $crasher,/domain N,/")"
xl destroy "$crasher"
until_true 60 gone "$crasher" || echo "FAILED: domain $crasher is still in the store"
# If the store does not fit into the domain twice, there is no room for a restart: the same kernel continues.
fill_store
xenstore-rm $node
said=$(xenstore-write /crash-by-panic x 2>&1) && echo "FAILED: dom0's request was done without room"
echo "no room: $said; $(xenstore-read $node)"
until_true 20 grep -q "resumed in place" $console || echo "FAILED: the console does not report that the kernel continues"
still_full
empty_store
xenstore-control check >/dev/null || echo "FAILED: xenstore-control check gave $?"
for client in /hammer/counter "$counter"; do
    rounds=$(($(xenstore-read "$client") + ROUNDS))
    until_true 60 has_counted "$client" || echo "FAILED: $client is not at $rounds after the crashes"
done
xenstore-write "/local/domain/$id/data/hammer/stop" 1
xenstore-write /hammer/stop 1
wait $hammer || echo "FAILED: dom0's hammer ended with $?"
cat /tmp/hammered
wait_for_report pv 60
raw_report pv
xl destroy "$id"
until_true 60 gone "$id" || echo "FAILED: domain $id is still in the store"
echo "restarts: $(grep -c 'warm restart: [0-9]' $console)"
