# As many event channels as one domain can have: the boot test of that name, as an ordinary guest.
. /functions
cat >/root/ports.cfg <<END
name = "ports"
type = "pv"
kernel = "/job/boot-test"
memory = 8
max_event_channels = 131071
extra = "--boot-test=ports"
on_poweroff = "preserve"
on_crash = "preserve"
END
xl create -q /root/ports.cfg || echo "FAILED: xl create gave $?"
console=/var/log/xen/console/guest-ports.log
until_true 90 grep -q 'woke the kernel' $console || echo "FAILED: no line about ports"
sed -n 's/.* \([0-9]*\) channels, \([0-9]*\) woke the kernel, highest port Some(\([0-9]*\)).*/ports channels=\1 woke=\2 highest=\3/p' $console
xl destroy ports
