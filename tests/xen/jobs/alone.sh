# The kernel as an ordinary guest, by the sample configuration: it has no right to be a Xenstore, must report this and
# stop.
. /functions
xl create -q /job/xenstore-stubdom.cfg 'kernel="/job/kernel"' 'on_poweroff="preserve"' 'on_crash="preserve"' || echo "FAILED: xl create gave $?"
# With preserve, xl keeps the domain and shows why it stopped.
until_true 30 sh -c "xl list -v | grep -E 'xenstore-stubdom .* (-|r)(-|b)(-|p)s'" || echo "FAILED: still running after 30 s"
xl list -v | awk 'NR == 1 || /xenstore-stubdom/'
# The column before the security label; 0 is SHUTDOWN_poweroff.
echo "shutdown reason: $(xl list -v | awk '/xenstore-stubdom/ { print $(NF - 1) }')"
until_true 10 test -s /var/log/xen/console/guest-xenstore-stubdom.log || echo "FAILED: nothing on its console"
xl destroy xenstore-stubdom
