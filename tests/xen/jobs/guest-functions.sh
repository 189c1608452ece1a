# Functions of the jobs that create guests.
#
# Guests are followed by name. QEMU 7.2 without KVM sometimes ends a PVH guest with a triple fault while Linux sets up
# its clock, with any store. Such a guest remains, shut down and with its id, so that no part of a job confuses it with
# another one. A job that needs the guest creates it again (`await`). `resets` prints how often that happened. Guests
# that crash remain as well, so that the reason can be shown.

# The console of the kernel under test.
console=/var/log/xen/console/guest-Xenstore.log

# How often a guest that ends before it is at work is created again.
CREATIONS_MOST=10

# start GUEST WORK: creates a guest that does WORK (dom0/guest-init).
start() {
    eval "work_of_$1=\$2"
    xl create -q "/root/$1.cfg" 'on_reboot="preserve"' 'on_crash="preserve"' "extra=\"console=hvc0 quiet loglevel=3 $2\"" ||
        echo "FAILED: xl create $1 gave $?"
}
# create TYPE: creates a guest that checks the store and reports.
create() { start "$1" check; }
xen_log() { cat /results/xl-dmesg-earlier.txt 2>/dev/null; xl dmesg; }
was_reset() { _id=$(xl domid "$1") && xen_log | grep -q "d${_id}v[0-9]* Triple fault"; }
# Succeeds if a guest has ended.
has_ended() { _id=$(xl domid "$1") && xl list "$_id" | awk '{ state = $5 } END { exit state !~ /[scd]/ }'; }
# has_worked: succeeds if the guest of id $_id has used the store by itself.
has_worked() { xenstore-exists "/local/domain/$_id/data/hammer" || xenstore-exists "/local/domain/$_id/data/report"; }
# Prints the reason why a guest is missing or has ended, as far as it is known.
tell_of() {
    xl list
    xen_log | grep -E 'Triple fault|crash' | tail -n 5
    tail -n 15 "/var/log/xen/console/guest-$1.log"
}
# await GUEST SECONDS COMMAND...: waits until COMMAND succeeds. Creates the guest again if the emulator has reset it, or
# if it has ended before it was at work.
await() {
    _guest=$1 _seconds=$2 _deadline=$(($(now_ms) + $2 * 1000)) _creations=0
    shift 2
    until "$@" >/dev/null 2>&1; do
        if has_ended "$_guest"; then
            _gone=$_id
            was_reset "$_guest" || { echo "$_guest $_gone has ended:" && tell_of "$_guest"; } >&2
            if ! was_reset "$_guest" && has_worked || [ $_creations -ge $CREATIONS_MOST ]; then
                echo "FAILED: $_guest has ended"
                return 1
            fi
            _creations=$((_creations + 1)) _deadline=$(($(now_ms) + _seconds * 1000))
            xl destroy "$_guest"
            until_true 60 gone "$_gone" || echo "FAILED: domain $_gone is still in the store"
            eval "start $_guest \"\$work_of_$_guest\""
        fi
        [ "$(now_ms)" -lt "$_deadline" ] || { echo "FAILED: not within $_seconds s: $*"; tell_of "$_guest" >&2; return 1; }
        usleep 50000
    done
}
raw_report() { _id=$(xl domid "$1") && xenstore-read "/local/domain/$_id/data/report"; }
# The report, without the id of this boot.
report() { raw_report "$1" | sed -e 's/domid=[0-9]* /domid=ID /' -e "s/by domain $(xl domid "$1") /by domain ID /"; }
wait_for_report() { await "$1" "$2" raw_report "$1"; }
gone() { ! xenstore-exists "/local/domain/$1"; }
resets() { echo "guests reset by the emulator: $(xen_log | grep -c 'Triple fault')"; }
# Fills the store with few large nodes, which is quick, until there is no memory for a second store.
fill_store() {
    count=0
    while xenstore-control update-report | grep -q ': enough'; do
        store-client nodes /full/$count 50 2000 || { echo "FAILED: no more nodes at $count"; return; }
        count=$((count + 1))
    done
    echo "full: $count times 50 nodes, $(xenstore-control update-report | grep memory:)"
}
still_full() {
    xenstore-read /full/0/0000/node0049 | grep -q '^value 0000000049\.' || echo "FAILED: the store has changed"
}
empty_store() { store-client rm /full || echo "FAILED: the nodes that filled the store cannot be removed"; }
# figures NAME: prints the kernel's newest line about memory, under that name. The kernel logs one when it checks
# itself.
figures() {
    lines=$(grep -c 'memory: used=' $console)
    xenstore-control check >/dev/null || echo "FAILED: xenstore-control check gave $?"
    until_true 10 sh -c "[ \$(grep -c 'memory: used=' $console) -gt $lines ]" || echo "FAILED: no line about memory"
    echo "$1 $(grep -o 'memory: used=.*' $console | tail -1)"
}
