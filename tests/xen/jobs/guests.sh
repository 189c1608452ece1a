# Linux guests on the store: what each of them finds, and that they leave nothing behind.
. /functions

# create TYPE: a guest that checks the store and reports.
create() { xl create -q "/root/$1.cfg" 'extra="console=hvc0 quiet check"'; }
id_of() { xl domid "$1"; }
report_of() { xenstore-read "/local/domain/$1/data/report"; }
gone() { ! xenstore-exists "/local/domain/$1"; }

echo "domains before: $(xenstore-list /local/domain | tr '\n' ' ')"
for guest in pv pvh; do
    create $guest || echo "FAILED: xl create $guest gave $?"
done
for guest in pv pvh; do
    id=$(id_of $guest)
    until_true 90 report_of "$id" || echo "FAILED: no report from $guest"
    # The ids are the boot's own.
    echo "$guest: $(report_of "$id" | sed "s/\b$id\b/ID/g")"
done
pv=$(id_of pv) pvh=$(id_of pvh)
xl shutdown pv || echo "FAILED: xl shutdown gave $?"
until_true 60 gone "$pv" && echo "pv: gone after xl shutdown" || echo "FAILED: domain $pv is still in the store"
xl destroy pvh || echo "FAILED: xl destroy gave $?"
until_true 60 gone "$pvh" && echo "pvh: gone after xl destroy" || echo "FAILED: domain $pvh is still in the store"
echo "domains after: $(xenstore-list /local/domain | tr '\n' ' ')"

create pv || echo "FAILED: creating again gave $?"
pv=$(id_of pv)
until_true 90 report_of "$pv" || echo "FAILED: no report from the guest created again"
echo "again: $(report_of "$pv" | sed "s/\b$pv\b/ID/g")"
xl destroy pv
until_true 60 gone "$pv" && echo "again: gone" || echo "FAILED: domain $pv is still in the store"
