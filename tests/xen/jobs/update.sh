# Live updates in a row (UPDATES of them, to the images in /job that IMAGES names) while a PV guest, a PVH guest and dom0
# hammer the store. Each client checks every reply and every event.
. /functions
. /job/guest-functions.sh
UPDATES=${UPDATES:-30}
IMAGES=${IMAGES:-kernel}
OPTIONS=${OPTIONS:-}

# complain GUEST WHAT: prints a failure, unless the emulator has reset that guest.
complain() {
    if was_reset "$1"; then echo "a guest was reset by the emulator: $1 $2"; else echo "FAILED: $1 $2"; fi
}
hammers() { xenstore-read "/local/domain/$(xl domid "$1")/data/hammer/counter"; }
# One after the other, the PVH guest first: the emulator may reset it while it boots, more often on a busy host.
hammer_guests() {
    for guest in pvh pv; do
        start $guest hammer
        await $guest 100 hammers $guest
    done
    resets_at_first=$(resets)
}
hammer_guests
store-hammer dom0 /hammer >/tmp/hammered 2>&1 &
hammer=$!
until_true 20 xenstore-exists /hammer/counter || echo "FAILED: dom0 does not hammer"
i=0
while [ $i -lt "$UPDATES" ]; do
    for image in $IMAGES; do
        begin=$(now_ms)
        xenstore-control live-update $OPTIONS "/job/$image" >/tmp/update.out 2>&1
        status=$?
        echo "update $i to $image: status $status after $(($(now_ms) - begin)) ms: $(tr '\n' ' ' </tmp/update.out)"
        i=$((i + 1))
        # A kernel that another kernel started has more tables of its own than one that Xen started, as each later one has.
        [ $i -ne 1 ] || figures before
    done
done
# A guest that the emulator has reset does not read its ring, and its pending output takes memory. The figures at the
# end are therefore taken with the same guests at work as at the beginning.
at_work() { ! has_ended "$1" && hammers "$1"; }
figures_with_guests() {
    while :; do
        resets_before=$(resets)
        for guest in pvh pv; do await $guest 100 at_work $guest || return; done
        figures "$1" >/tmp/figures
        [ "$(resets)" != "$resets_before" ] || break
    done
    cat /tmp/figures
}
figures_with_guests after
[ "$(resets)" = "$resets_at_first" ] || echo "a guest was reset by the emulator"
for guest in pv pvh; do xenstore-write "/local/domain/$(xl domid $guest)/data/hammer/stop" 1; done
xenstore-write /hammer/stop 1
wait $hammer || echo "FAILED: dom0's hammer ended with $?"
cat /tmp/hammered
for guest in pv pvh; do
    until_true 60 raw_report $guest || complain $guest "does not report"
    echo "$guest $(raw_report $guest)"
    id=$(xl domid $guest) || continue
    xl destroy $guest
    until_true 60 gone "$id" || echo "FAILED: domain $id is still in the store"
done
xenstore-rm /hammer
figures end
resets
