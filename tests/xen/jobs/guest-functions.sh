# Functions of the jobs that create guests.
#
# Guests are followed by name. QEMU 7.2 without KVM now and then ends a PVH guest with a triple fault while Linux is still
# setting up its clock, with any store; `xl` then starts it again under a new id. `resets` says how often that was.

# create TYPE: a guest that checks the store and reports.
create() { xl create -q "/root/$1.cfg" 'extra="console=hvc0 quiet loglevel=3 check"' || echo "FAILED: xl create $1 gave $?"; }
raw_report() { _id=$(xl domid "$1") && xenstore-read "/local/domain/$_id/data/report"; }
# The report, with the id of this boot taken out.
report() { raw_report "$1" | sed -e 's/domid=[0-9]* /domid=ID /' -e "s/by domain $(xl domid "$1") /by domain ID /"; }
wait_for_report() { until_true "$2" raw_report "$1" || echo "FAILED: no report from $1 after $2 s"; }
gone() { ! xenstore-exists "/local/domain/$1"; }
resets() { echo "guests reset by the emulator: $(xl dmesg | grep -c 'Triple fault')"; }
