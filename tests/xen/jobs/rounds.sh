# Guests come and go (ROUNDS times), and the store, the kernel's memory and its grant maps must be as they were.
. /functions
. /job/guest-functions.sh
ROUNDS=${ROUNDS:-20}
if xenstore-exists /tool/xenstored/domid; then is_domain=1; else is_domain=; fi

# Grants in use, as Xen itself sees them.
maps() {
    xl dmesg -c >>/results/xl-dmesg-earlier.txt
    xl debug-keys g
    xl dmesg >"/results/grants-$1.txt"
}
snapshot() {
    [ -z "$is_domain" ] || figures "$1"
    maps "$1"
    xenstore-ls -fp / >"/results/store-$1.txt"
}
# Even rounds are PV guests, odd ones PVH. Every fourth guest runs until it has used the store; the others are destroyed
# while they start.
round() {
    [ $(($1 % 2)) -eq 0 ] && guest=pv || guest=pvh
    create $guest
    [ $(($1 % 4)) -ne 0 ] || wait_for_report $guest 100
    id=$(xl domid $guest)
    xl destroy $guest || echo "FAILED: round $1: xl destroy gave $?"
    until_true 60 gone "$id" || echo "FAILED: round $1: domain $id is still in the store"
}

# One of each kind first: memory that is allocated once and kept is no leak.
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
