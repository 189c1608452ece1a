# Everything together for SOAK_SECONDS. dom0 and a PV guest hammer the store and check every reply and event. Meanwhile
# other guests come and go, a hostile one attacks, the kernel is updated, and crashes on request. Then everything must
# be as before. This needs an image that crashes on request.
. /functions
. /job/guest-functions.sh
SOAK_SECONDS=${SOAK_SECONDS:-1800}
node=/tool/xenstored/crash
updates=0 forced=0 crashes=0 rounds=0 attacks=0

hammers() { xenstore-read "/local/domain/$(xl domid "$1")/data/hammer/counter"; }
# Next to a guest that has filled the store there may be no memory for two states: then the present one is dropped
# first.
update() {
    updates=$((updates + 1))
    xenstore-control live-update /job/kernel >/tmp/update.out 2>&1 && return
    if grep -q -e '-F drops' /tmp/update.out; then
        forced=$((forced + 1))
        xenstore-control live-update -F /job/kernel >/tmp/update.out 2>&1 && return
    fi
    echo "FAILED: update: $(tr '\n' ' ' </tmp/update.out)"
}
# A crash that dom0 requests: the request is refused, and the node describes the crash.
crash() {
    xenstore-write "/crash-by-$1" x 2>/dev/null && echo "FAILED: the request was done"
    until_true 20 xenstore-exists $node || echo "FAILED: the crash is not reported"
    xenstore-rm $node
    crashes=$((crashes + 1))
}
# A guest that uses the store, or is destroyed while it starts.
guest() {
    create pvh
    [ $(($1 % 2)) -ne 0 ] || wait_for_report pvh 200
    id=$(xl domid pvh)
    xl destroy pvh || echo "FAILED: xl destroy gave $?"
    until_true 60 gone "$id" || echo "FAILED: domain $id is still in the store"
    rounds=$((rounds + 1))
}

# begin_attack MODE: starts the hostile guest for longer than a turn.
begin_attack() {
    xl create -q /root/hostile.cfg "extra=\"--hostile=$1 --seconds=60\"" || echo "FAILED: xl create hostile gave $?"
    attacks=$((attacks + 1))
}
end_attack() {
    id=$(xl domid hostile)
    xl destroy "$id" || echo "FAILED: xl destroy hostile gave $?"
    until_true 60 gone "$id" || echo "FAILED: domain $id is still in the store"
}
cat >/root/hostile.cfg <<END
name = "hostile"
type = "pv"
kernel = "/job/hostile"
memory = 16
on_poweroff = "preserve"
on_crash = "preserve"
END

start pv hammer
await pv 100 hammers pv
store-hammer dom0 /hammer >/tmp/hammered 2>&1 &
hammer=$!
until_true 20 xenstore-exists /hammer/counter || echo "FAILED: dom0 does not hammer"
update
crash panic
guest 0
figures before
end=$(($(now_ms) + SOAK_SECONDS * 1000)) turn=0
set -- indices garbage fill walk flood revoke die
while [ "$(now_ms)" -lt $end ]; do
    begin_attack "$1"
    guest $turn
    case $((turn % 4)) in
        0) update ;;
        1) crash panic ;;
        2) update ;;
        3) crash fault ;;
    esac
    end_attack
    set -- "$@" "$1"
    shift
    turn=$((turn + 1))
    [ $((turn % 10)) -ne 0 ] || figures "turn=$turn"
done
figures after
xenstore-write "/local/domain/$(xl domid pv)/data/hammer/stop" 1
xenstore-write /hammer/stop 1
wait $hammer || echo "FAILED: dom0's hammer ended with $?"
cat /tmp/hammered
wait_for_report pv 60
raw_report pv
id=$(xl domid pv)
xl destroy pv
until_true 60 gone "$id" || echo "FAILED: domain $id is still in the store"
xenstore-rm /hammer
figures end
echo "soak: seconds=$SOAK_SECONDS turns=$turn updates=$updates forced=$forced crashes=$crashes guests=$rounds attacks=$attacks"
resets
