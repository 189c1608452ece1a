# One or two hostile guests play the shapes of hostile-guest/shapes.rs, one after the other. Meanwhile an innocent guest
# changes a node, dom0 acknowledges each change, and the job creates and destroys a third domain. The innocent guest
# measures the durations of its requests. SECONDS_EACH is the length of a shape's measurement. MODES are the shapes.
. /functions
. /job/guest-functions.sh
SECONDS_EACH=${SECONDS_EACH:-5}
MODES=${MODES:-spin busy collide missing blame burst repeat expire exit}
# The length of the part in which the job creates and destroys the third domain.
THIRD_SECONDS=3
# Unread events expire after 20 seconds: this shape is measured for longer.
EXPIRY_S=24

# guest NAME MODE [SECONDS]: a guest of the small kernel. -e leaves no process that waits for its end.
guest() {
    xl create -qe /root/small.cfg "name=\"$1\"" "extra=\"--hostile=$2 --seconds=${3:-0}\"" || echo "FAILED: xl create $1 gave $?"
}
# has_logged NAME MODE WHAT: succeeds if the guest has logged WHAT about its mode.
has_logged() { grep -q "hostile: $2 $3" "/var/log/xen/console/guest-$1.log"; }
remove() {
    id=$(xl domid "$1")
    xl destroy "$id" || echo "FAILED: xl destroy $1 gave $?"
    until_true 60 gone "$id" || echo "FAILED: domain $id is still in the store"
}
go() { xenstore-write "/local/domain/$1/data/go" "$2"; }
# command TEXT sends a command to the innocent guest; answer SECONDS prints its answer.
serial=0
command() {
    serial=$((serial + 1))
    xenstore-write "$home/data/command" "$serial $1"
}
answered() { xenstore-read "$home/data/answer" 2>/dev/null | grep -q "^$serial "; }
answer() {
    until_true "$1" answered || { echo "FAILED: no answer to $serial within $1 s"; return 1; }
    _answer=$(xenstore-read "$home/data/answer")
    echo "${_answer#* }"
}
phase() { xenstore-write /witness/phase "$1"; }
# await_death [DOMID] starts to watch for the death of that domain, or of any. death_came NAME prints whether the event came.
await_death() {
    store-witness death 30 $1 >/tmp/death 2>&1 &
    watcher=$!
    until_true 20 grep -q ready /tmp/death || echo "FAILED: nothing watches for a death"
}
death_came() {
    wait $watcher || echo "FAILED: the watcher for a death gave $?"
    echo "$1 $(tail -1 /tmp/death)"
}
# measure NAME SECONDS: the innocent guest measures for SECONDS. Then it continues while the job creates and destroys a third
# domain. The measurement excludes that part: it takes much processor time.
measure() {
    phase "$1"
    command "rounds $(($2 * 1000))"
    usleep $(($2 * 1000000))
    echo "waits $1: $(answer 120)"
    phase "$1-third"
    command "rounds $((THIRD_SECONDS * 1000))"
    guest third serve
    third=$(xl domid third)
    await_death "$third"
    xl destroy "$third" || echo "FAILED: xl destroy third gave $?"
    death_came "third-of-$1"
    echo "waits $1-third: $(answer 120)"
    phase none
}
# attack MODE SECONDS: plays one shape, with an accomplice or a reader in dom0 where the shape needs one.
attack() {
    mode=$1 seconds=$2 peer=- reader=
    lasts=$((seconds + THIRD_SECONDS + 2))
    if [ "$mode" = repeat ]; then
        guest accomplice sleep $((lasts + 6))
        peer=$(xl domid accomplice)
    fi
    guest hostile "$mode" $lasts
    hostile=$(xl domid hostile)
    until_true 60 has_logged hostile "$mode" begins || echo "FAILED: $mode does not begin"
    if [ "$mode" = repeat ]; then
        go "$peer" "$hostile"
        until_true 60 xenstore-exists "/local/domain/$peer/data/ready" || echo "FAILED: the accomplice is not ready"
    fi
    if [ "$mode" = burst ] || [ "$mode" = exit ]; then
        store-witness read "/local/domain/$hostile/data/state" &
        reader=$!
    fi
    [ "$mode" != exit ] || await_death
    go "$hostile" "$peer"
    if [ "$mode" = exit ]; then
        phase exit
        command "rounds $((seconds * 1000))"
        # Only then the job checks: programs that start in dom0 take much processor time.
        usleep $((seconds * 1000000))
        echo "waits exit: $(answer 120)"
        phase none
        death_came exit
        xl list | grep -q '^hostile .* ....c. ' || echo "FAILED: exit does not crash"
    else
        measure "$mode" "$seconds"
        until_true 120 has_logged hostile "$mode" "is done" || echo "FAILED: $mode is never done"
    fi
    [ -z "$reader" ] || kill $reader
    remove hostile
    [ "$mode" != repeat ] || remove accomplice
}

cat >/root/small.cfg <<END
type = "pv"
kernel = "/job/hostile"
memory = 16
vcpus = 1
cpus = "0"
on_poweroff = "preserve"
on_crash = "preserve"
END
# The store has a processor of its own: the test measures waits for the store, not for the scheduler.
xl vcpu-pin Xenstore 0 1 || echo "FAILED: xl vcpu-pin gave $?"
xl vcpu-pin 0 0 0 || echo "FAILED: xl vcpu-pin gave $?"
guest innocent serve
home=/local/domain/$(xl domid innocent)
# With this weight, Xen runs the guest as soon as its answer comes, before other domains.
xl sched-credit2 -d innocent -w 65535 || echo "FAILED: xl sched-credit2 gave $?"
phase none
store-witness rounds "$home" >/tmp/witness 2>&1 &
witness=$!
until_true 20 grep -q ready /tmp/witness || echo "FAILED: dom0 does not watch"
until_true 60 grep -q ready /var/log/xen/console/guest-innocent.log || echo "FAILED: the innocent guest is not ready"
# The first rounds allocate memory that the store keeps: it is no leak.
command "rounds 500"
answer 60 >/dev/null
figures before
phase quiet
command "rounds $((SECONDS_EACH * 1000))"
usleep $((SECONDS_EACH * 1000000))
echo "waits quiet: $(answer 60)"
for mode in $MODES; do
    case $mode in
        expire) attack $mode $EXPIRY_S ;;
        *) attack $mode $SECONDS_EACH ;;
    esac
done
figures after
phase end
wait $witness || echo "FAILED: dom0's witness gave $?"
cat /tmp/witness
remove innocent
grep -h "hostile:" /var/log/xen/console/guest-*.log
