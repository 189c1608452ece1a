# The kernel crashes in a request, and once more while it starts anew: there is nothing to go on with, and the console says why.
# Nobody answers the request, nor whoever asks for anything afterwards.
. /functions
console=/var/log/xen/console/guest-Xenstore.log
xenstore-write /before x || echo "FAILED: it does not serve"
xenstore-write /crash-by-panic x &
until_true 60 grep -q "no warm restart" $console || echo "FAILED: it does not end"
cat $console
