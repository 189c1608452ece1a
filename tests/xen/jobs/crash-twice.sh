# The kernel crashes in a request, and again during the restart: it cannot continue, and the console has the reason.
# Neither this request nor any later one is answered.
. /functions
console=/var/log/xen/console/guest-Xenstore.log
xenstore-write /before x || echo "FAILED: the store does not serve"
xenstore-write /crash-by-panic x &
until_true 60 grep -q "no warm restart" $console || echo "FAILED: the kernel does not end"
cat $console
