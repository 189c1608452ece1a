# Successors that fail in many ways, while a PV guest and dom0 hammer the store. The predecessor must resume and report
# the reason, and a good update right after must succeed. Images in /job: kernel, test-kernel (fails as its command line
# says), old-kernel (knows version 1 of the stream only).
. /functions
. /job/guest-functions.sh

start pv hammer
id=$(xl domid pv)
until_true 100 xenstore-read "/local/domain/$id/data/hammer/counter" || echo "FAILED: pv does not hammer"
store-hammer dom0 /hammer >/tmp/hammered 2>&1 &
hammer=$!
until_true 20 xenstore-exists /hammer/counter || echo "FAILED: dom0 does not hammer"

# try NAME STATUS ARGUMENTS...: makes an update, and prints the store's answer.
try() {
    _what=$1 _expected=$2
    shift 2
    xenstore-control live-update "$@" >/tmp/update.out 2>&1
    _status=$?
    echo "$_what: $(tr '\n' ' ' </tmp/update.out)"
    [ $_status -eq "$_expected" ] || echo "FAILED: $_what: status $_status"
}
# After each failure, the next update succeeds.
good() { try good 0 /job/kernel; }

printf 'no kernel at all' >/tmp/garbage
dd if=/job/kernel of=/tmp/half bs=1024 count=200 2>/dev/null
xenstore-write /marker before
try garbage 3 /tmp/garbage
try half 3 /tmp/half
for failure in fault-early jump-early hang-early panic-before fault-before panic-twice panic-during panic-after fault-after \
    hang-after memory corrupt truncated version nonsense; do
    try $failure 3 -c "--update-test=$failure" /job/test-kernel
    [ "$(xenstore-read /marker)" = before ] || echo "FAILED: the store has changed"
    good
done
# An older kernel knows version 1 only, and the open transactions of the clients need version 2: this needs a limit of
# the version.
rm -f /tmp/release
store-client hold /tmp/release >/tmp/held 2>&1 &
holder=$!
until_true 20 grep -q held /tmp/held || echo "FAILED: no transaction is held"
try too-new 3 /job/old-kernel
echo "report: $(xenstore-control update-report | tr '\n' ' ')"
good
: >/tmp/release
wait $holder || echo "FAILED: the held transaction ended with $?"
echo "the transaction: $(tr '\n' ' ' </tmp/held)$(xenstore-read /held)"
xenstore-control stream-version 1 || echo "FAILED: stream-version gave $?"
try older 0 /job/old-kernel
good
# If the store does not fit into the domain twice, the update is refused, or drops the predecessor's state on request.
fill_store
try no-room 3 /job/kernel
try no-room-panic 3 -F -c "--update-test=panic-after" /job/test-kernel
try no-room-corrupt 3 -F -c "--update-test=corrupt" /job/test-kernel
still_full
try no-room-good 0 -F /job/kernel
still_full
empty_store
xenstore-control check >/dev/null || echo "FAILED: xenstore-control check gave $?"
xenstore-write "/local/domain/$id/data/hammer/stop" 1
xenstore-write /hammer/stop 1
wait $hammer || echo "FAILED: dom0's hammer ended with $?"
cat /tmp/hammered
wait_for_report pv 60
raw_report pv
xl destroy pv
until_true 60 gone "$id" || echo "FAILED: domain $id is still in the store"
echo "kernels that served: $(grep -c 'live update: [0-9]' $console)"
