# Every command of xenstore-control but live-update, from dom0, with its output and its exit status.
. /functions
run() {
    echo "\$ $*"
    timeout 20 "$@" 2>&1
    echo "-> $?"
}
own=$(stub_id)
run xenstore-control check
run xenstore-control help
run xenstore-control print hello
run xenstore-control log on
run xenstore-control log off
run xenstore-control log on
run xenstore-control logfile /var/log/store
run xenstore-control memreport
run xenstore-control quota
run xenstore-control quota-soft
run xenstore-control quota 0
run xenstore-control quota max
run xenstore-control quota set watches 129
run xenstore-control quota
run xenstore-control quota set nonsense 1
run xenstore-control quota 9999
run xenstore-control nonsense
echo "the store is domain $own"
