# A Linux PV guest (which the emulator does not reset) reaches each of its quotas. dom0 reads the store all the time,
# first with the guest idle, then at work.
. /functions
. /job/guest-functions.sh

start pv quotas
id=$(xl domid pv)
until_true 60 xenstore-exists "/local/domain/$id/control/feature-poweroff" || echo "FAILED: the guest's Linux is not up"

# reads WHEN COMMAND...: prints the durations of reads while COMMAND runs.
reads() {
    _when=$1
    shift
    rm -f /tmp/enough
    store-client latency /tmp/enough >/tmp/latency 2>&1 &
    _reader=$!
    "$@" || echo "FAILED: $*"
    : >/tmp/enough
    wait $_reader || echo "FAILED: dom0's reads ended with $?"
    echo "$_when: $(cat /tmp/latency)"
}
fill() {
    xenstore-write "/local/domain/$(xl domid pv)/data/go" 1
    wait_for_report pv 200
}
reads idle sleep 5
reads filling fill
echo "--- the guest's report"
raw_report pv | sed 's/\\n/\n/g'
echo "--- end of the report"
xenstore-control check >/dev/null || echo "FAILED: xenstore-control check gave $?"
xl destroy pv
until_true 60 gone "$id" || echo "FAILED: domain $id is still in the store"
