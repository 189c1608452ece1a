# The kernel crashes while it handles a request, of dom0 and of a guest, and goes on: for images that crash when asked.
. /functions
. /job/guest-functions.sh
console=/var/log/xen/console/guest-Xenstore.log
node=/tool/xenstored/crash
is_ready() { xenstore-exists "/local/domain/$(xl domid "$1")/data/ready"; }

start pv hammer
id=$(xl domid pv)
until_true 100 xenstore-read "/local/domain/$id/data/hammer/counter" || echo "FAILED: pv does not hammer"
start pvh crash
await pvh 100 is_ready pvh
crasher=$(xl domid pvh)
store-hammer dom0 /hammer >/tmp/hammered 2>&1 &
hammer=$!
until_true 20 xenstore-exists /hammer/counter || echo "FAILED: dom0 does not hammer"

for how in panic fault; do
    said=$(xenstore-write /crash-by-$how x 2>&1) && echo "FAILED: dom0's request was done"
    echo "dom0 $how: $said; $(xenstore-read $node)"
    xenstore-rm $node
done
xenstore-write "/local/domain/$crasher/data/go" 1
until_true 20 xenstore-exists $node || echo "FAILED: the guest's crash is not told of"
echo "guest: $(xenstore-read $node | sed "s/domain $crasher,/domain N,/")"
xl destroy "$crasher"
until_true 60 gone "$crasher" || echo "FAILED: domain $crasher is still in the store"
xenstore-control check >/dev/null || echo "FAILED: xenstore-control check gave $?"
xenstore-write "/local/domain/$id/data/hammer/stop" 1
xenstore-write /hammer/stop 1
wait $hammer || echo "FAILED: dom0's hammer ended with $?"
cat /tmp/hammered
wait_for_report pv 60
raw_report pv
xl destroy "$id"
until_true 60 gone "$id" || echo "FAILED: domain $id is still in the store"
echo "restarts: $(grep -c 'warm restart: [0-9]' $console)"
