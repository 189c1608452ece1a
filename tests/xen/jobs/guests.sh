# Linux guests on the store: each finds its nodes, and leaves nothing.
. /functions
. /job/guest-functions.sh

echo "domains before: $(xenstore-list /local/domain | tr '\n' ' ')"
for guest in pv pvh; do
    create $guest
done
for guest in pv pvh; do
    wait_for_report $guest 100
    echo "$guest: $(report $guest)"
done
pv=$(xl domid pv) pvh=$(xl domid pvh)
xl shutdown pv || echo "FAILED: xl shutdown gave $?"
until_true 60 gone "$pv" && echo "pv: gone after xl shutdown" || echo "FAILED: domain $pv is still in the store"
xl destroy pvh || echo "FAILED: xl destroy gave $?"
until_true 60 gone "$pvh" && echo "pvh: gone after xl destroy" || echo "FAILED: domain $pvh is still in the store"
echo "domains after: $(xenstore-list /local/domain | tr '\n' ' ')"

create pv
wait_for_report pv 100
echo "again: $(report pv)"
pv=$(xl domid pv)
xl destroy pv
until_true 60 gone "$pv" && echo "again: gone" || echo "FAILED: domain $pv is still in the store"
resets
