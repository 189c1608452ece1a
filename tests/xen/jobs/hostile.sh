# A hostile guest attacks, mode by mode, while dom0 and a PV guest use the store and check every answer. The job
# measures dom0's wait for a read in each mode, before, and while the guest only computes. Each mode lasts SECONDS_EACH.
. /functions
. /job/guest-functions.sh
SECONDS_EACH=${SECONDS_EACH:-5}
hostile_console=/var/log/xen/console/guest-hostile.log
cat >/root/hostile.cfg <<END
name = "hostile"
type = "pv"
kernel = "/job/hostile"
memory = 16
vcpus = 2
on_poweroff = "preserve"
on_crash = "preserve"
END

hammers() { xenstore-read "/local/domain/$(xl domid "$1")/data/hammer/counter"; }
measure() {
    rm -f /tmp/enough
    store-client latency /tmp/enough >/tmp/latency 2>&1 &
    reader=$!
}
measured() {
    : >/tmp/enough
    wait $reader || echo "FAILED: the reader ended with $?"
    echo "latency $1: $(cat /tmp/latency)"
}
said() { grep -c "hostile: $1 $2" $hostile_console 2>/dev/null; }
says() { [ "$(said "$1" "$2")" -gt "$3" ]; }
# The guest crashed itself, in the middle of a request.
crashed() { xl list | grep -q '^hostile .* ....c. '; }
attack() {
    begun=$(said "$1" begins) done=$(said "$1" "is done")
    xl create -q /root/hostile.cfg "extra=\"--hostile=$1 --seconds=$SECONDS_EACH\"" || echo "FAILED: xl create gave $?"
    id=$(xl domid hostile)
    until_true 60 says "$1" begins "${begun:-0}" || echo "FAILED: $1 does not begin"
    measure
    if [ "$1" = die ]; then
        until_true 90 crashed || echo "FAILED: $1 does not crash"
    else
        until_true 90 says "$1" "is done" "${done:-0}" || echo "FAILED: $1 is never done"
    fi
    measured "$1"
    xl destroy "$id" || echo "FAILED: xl destroy gave $?"
    until_true 60 gone "$id" || echo "FAILED: domain $id is still in the store"
    [ "$(hammers pv)" != "$at" ] || echo "FAILED: pv does not hammer any more"
    at=$(hammers pv)
}

start pv hammer
await pv 100 hammers pv
at=$(hammers pv)
# One of each first: memory that is allocated once and kept is no leak.
for mode in walk fill; do attack $mode; done
figures before
measure
usleep 3000000
measured quiet
for mode in spin indices flood garbage fill walk revoke die; do attack $mode; done
figures after
xenstore-write "/local/domain/$(xl domid pv)/data/hammer/stop" 1
wait_for_report pv 60
raw_report pv
id=$(xl domid pv)
xl destroy "$id"
until_true 60 gone "$id" || echo "FAILED: domain $id is still in the store"
grep "hostile:" $hostile_console
