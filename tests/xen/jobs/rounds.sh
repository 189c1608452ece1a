# Guests come and go (ROUNDS times), and the store, the kernel's memory and its grant maps must be as they were.
. /functions
ROUNDS=${ROUNDS:-20}
console=/var/log/xen/console/guest-Xenstore.log

# The kernel prints a line about its memory when it is asked to check itself.
figures() {
    before=$(grep -c 'memory: used=' $console)
    xenstore-control check >/dev/null || echo "FAILED: xenstore-control check gave $?"
    until_true 10 sh -c "[ \$(grep -c 'memory: used=' $console) -gt $before ]" || echo "FAILED: no line about memory"
    echo "$1 $(grep -o 'memory: used=.*' $console | tail -1)"
}
# Grant references of other domains that the Xenstore domain has mapped, as Xen itself sees it.
maps() {
    xl dmesg -c >/dev/null
    xl debug-keys g
    xl dmesg >"/results/grants-$1.txt"
}
snapshot() {
    [ "$XENSTORE_IS_DOMAIN" = 0 ] || { figures "$1"; maps "$1"; }
    xenstore-ls -fp / >"/results/store-$1.txt"
}
gone() { ! xenstore-exists "/local/domain/$1"; }
xenstore-exists /tool/xenstored/domid && XENSTORE_IS_DOMAIN=1 || XENSTORE_IS_DOMAIN=0
round() {
    [ $(($1 % 2)) -eq 0 ] && guest=pv || guest=pvh
    xl create -q /root/$guest.cfg 'extra="console=hvc0 quiet check"' || echo "FAILED: round $1: xl create gave $?"
    id=$(xl domid $guest)
    until_true 60 xenstore-exists "/local/domain/$id/data/report" || echo "FAILED: round $1: no report"
    xl destroy $guest || echo "FAILED: round $1: xl destroy gave $?"
    until_true 60 gone "$id" || echo "FAILED: round $1: domain $id is still in the store"
}

# One of each kind first: what is allocated once and kept is no leak.
round 0
round 1
snapshot before
i=0
while [ $i -lt "$ROUNDS" ]; do
    round $i
    i=$((i + 1))
done
snapshot after
echo "rounds: $i"
